// Kernels that every form shares, and what the emulation in the tests replaces.
// Compile-time: XT, the type of the stored rows.
#ifndef XT
#define XT double
#endif
typedef long long int64;

// out[m] = sum over p of part[p][m], in an order that depends on p_count alone. Blocks of (32, 32) threads.
extern "C" __global__ void fold(const double* __restrict__ part, int64 p_count, int64 m_count, double* __restrict__ out) {
  __shared__ double s[32][33];
  const int64 m = (int64)blockIdx.x * 32 + threadIdx.x;
  double v = 0.0;
  if (m < m_count) {
#pragma unroll 4
    for (int64 p = threadIdx.y; p < p_count; p += 32) v += part[p * m_count + m];
  }
  s[threadIdx.y][threadIdx.x] = v;
  __syncthreads();
  if (threadIdx.y == 0 && m < m_count) {
    v = 0.0;
    for (int y = 0; y < 32; ++y) v += s[y][threadIdx.x];
    out[m] = v;
  }
}

// out[i] = x[index[i]], for rows of `width` numbers.
extern "C" __global__ void gather(const XT* __restrict__ x, const int64* __restrict__ index, int64 count, int64 width, XT* __restrict__ out) {
  for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < count * width; i += (int64)gridDim.x * blockDim.x)
    out[i] = x[index[i / width] * width + i % width];
}

// The same for double precision, whatever the rows are.
extern "C" __global__ void gather_double(const double* __restrict__ x, const int64* __restrict__ index, int64 count, int64 width, double* __restrict__ out) {
  for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < count * width; i += (int64)gridDim.x * blockDim.x)
    out[i] = x[index[i / width] * width + i % width];
}

// out[index[i]] = x[i], for records of `width` numbers of eight bytes.
extern "C" __global__ void scatter(const int64* __restrict__ x, const int64* __restrict__ index, int64 count, int64 width, int64* __restrict__ out) {
  for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < count * width; i += (int64)gridDim.x * blockDim.x)
    out[index[i / width] * width + i % width] = x[i];
}
