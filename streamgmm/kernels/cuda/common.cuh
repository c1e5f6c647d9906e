// Kernels that every form shares, and what the emulation in the tests replaces.
// Compile-time: XT, the type of the stored rows; MMA8 (older tensor cores).
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

[[maybe_unused]] constexpr int KSTEP = 4;  // steps of 4 features, or rows, per instruction of the FP64 tensor cores

// d += a b, with the rows g and g + 8 of a and the column g of b in lane 4 g + t: a[2 s + h] is (g + 8 h, 4 s + t), b[s] is
// (4 s + t, g); d holds (g + 8 h, 2 t + q) as d[2 h + q].
#ifndef EMULATE
__device__ __forceinline__ void mma(double (&d)[4], const double* a, const double* b) {
#ifdef MMA8  // two m8n8k4
#pragma unroll
  for (int s = 0; s < KSTEP; ++s) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};" : "+d"(d[0]), "+d"(d[1]) : "d"(a[2*s]), "d"(b[s]));
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};" : "+d"(d[2]), "+d"(d[3]) : "d"(a[2*s+1]), "d"(b[s]));
  }
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%0,%1,%2,%3};"
      : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3]) : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]),
        "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
#endif
}
#endif
