"""The forms cut to vector registers: dense, screened, and of few features."""
