"""The E-step on one NVIDIA graphics card: kernels in CUDA C++, compiled at run time for the mixture's shape."""
