// The parts of an E-step around two products of matrices: features of a batch of rows before them, softmax in between.
// Compile-time: D, F (features of the model and of the rows), P (numbers in a row of features, padded), K, RB (rows of a
// block of `phi`), WHITEN (0 a lower triangle, 1 any (D, F) matrix, 2 scales), COMMON (the squared length of z is part of
// every logit), XT, TOLERANCE, NEGLIGIBLE.

// Row r of out: products of two of (z, 1, 0, |z|^2), as `table` says: (i << 16) + j. whiten is transposed: (F, D).
extern "C" __global__ void phi(const XT* __restrict__ x, int64 n, const double* __restrict__ weight, const double* __restrict__ whiten,
                               const double* __restrict__ shift, const int* __restrict__ table, double* __restrict__ out,
                               double* __restrict__ norm) {
  extern __shared__ double sm[];
  constexpr int ZW = D + 3;
  double *xs = sm, *zs = sm + RB * F;
  const int64 r0 = (int64)blockIdx.x * RB;
  const int rows = n - r0 < RB ? (int)(n - r0) : RB;
  for (int i = threadIdx.x; i < rows * F; i += blockDim.x) xs[i] = (double)x[r0 * F + i] - shift[i % F];
  __syncthreads();
  if (WHITEN == 2)
    for (int i = threadIdx.x; i < rows * D; i += blockDim.x) zs[i / D * ZW + i % D] = whiten[i % D] * xs[i / D * F + i % D];
  constexpr int DX = D < 256 ? D : 256, DY = 256 / DX, DR = (RB + DY - 1) / DY;  // a thread has a feature, and every DY-th row
  if (WHITEN != 2 && threadIdx.x < DX * DY)
    for (int d = threadIdx.x % DX, b0 = threadIdx.x / DX; d < D; d += DX) {
      double s[DR] = {};
      for (int j = 0; j < (WHITEN == 0 ? d + 1 : F); ++j) {
        const double one = whiten[j * D + d];
#pragma unroll
        for (int r = 0; r < DR; ++r)
          if (RB % DY == 0 || b0 + r * DY < RB) s[r] += one * xs[(b0 + r * DY) * F + j];
      }
#pragma unroll
      for (int r = 0; r < DR; ++r)
        if (b0 + r * DY < rows) zs[(b0 + r * DY) * ZW + d] = s[r];
    }
  __syncthreads();
  for (int b = threadIdx.x; b < rows; b += blockDim.x) {
    double *z = zs + b * ZW, s = 0.0;
    for (int d = 0; d < D; ++d) s += z[d] * z[d];
    const bool useful = s < 1e280, here = weight == nullptr || weight[r0 + b] > 0.0;
    if (!useful)  // NaN, infinity, or squares that overflow
      for (int d = 0; d < D; ++d) z[d] = 0.0;
    z[D] = 1.0;
    z[D + 1] = 0.0;
    z[D + 2] = useful ? s : 0.0;
    norm[r0 + b] = here || useful ? s : 0.0;
  }
  __syncthreads();
  constexpr int PX = P < 256 ? P : 256, PY = 256 / PX;  // a thread keeps its features, and goes through rows
  if (threadIdx.x < PX * PY)
    for (int i = threadIdx.x % PX; i < P; i += PX) {
      const int q = table[i];
      for (int b = threadIdx.x / PX; b < rows; b += PY) out[(r0 + b) * P + i] = zs[b * ZW + (q >> 16)] * zs[b * ZW + (q & 0xffff)];
    }
}

__device__ constexpr int lanes() { int g = 1; while (g < K && g < 32) g *= 2; return g; }
constexpr int G = lanes(), V = (K + G - 1) / G;  // lanes of a row, components of a lane
constexpr bool KEEP = V <= 16;                   // whether these stay in registers
constexpr unsigned OWN = G == 32 ? ~0u : (1u << G % 32) - 1u;  // the first lanes of a row, as bits

// Answers and totals of n rows, whose logits turn into weighted responsibilities. `bounds` holds narrow, radius, and the
// responsibility above which a pair of row and component is kept (3 K). totals: eight numbers for each block, as in
// fused.cu, then the kept pairs, and the sum of w max(1, |z|^2); of all batches after the first. kept: a bit for each
// pair, V words for each row. Any of kept, taken, logp, resp, label may be null. alone: pairs that are not kept need not
// be written.
extern "C" __global__ void __launch_bounds__(256)
softmax(double* __restrict__ logits, const double* __restrict__ norm, int64 n, const double* __restrict__ weight, double base, double limit,
        const double* __restrict__ bounds, int64 first, double* __restrict__ totals, unsigned char* __restrict__ declined,
        double* __restrict__ taken, double* __restrict__ logp, double* __restrict__ resp, int64 width, int64* __restrict__ label,
        unsigned* __restrict__ kept, int64 alone) {
  __shared__ double shared[8][8];
  const int l = threadIdx.x % G;
  double tops = 0.0, logs = 0.0, mixed = 0.0, mass = 0.0, rows = 0.0, left = 0.0, pairs = 0.0, spread = 0.0;
  constexpr int RPB = 256 / G;
  for (int64 r0 = (int64)blockIdx.x * RPB; r0 < n; r0 += (int64)gridDim.x * RPB) {
    const int64 row = r0 + threadIdx.x / G;
    const bool in = row < n;
    double* own = logits + (in ? row : 0) * K;
    const double w = in ? (weight == nullptr ? 1.0 : weight[row]) : 0.0, length = in ? norm[row] : 0.0;
    double v[KEEP ? V : 1], top = -1.7e308;
    int best = K;
#pragma unroll(KEEP ? V : 1)
    for (int i = 0; i < V; ++i) {
      const int k = i * G + l;
      const double u = in && k < K ? own[k] : -1.7e308;
      if (KEEP) v[KEEP ? i : 0] = u;
      if (u > top) top = u, best = k;
    }
#pragma unroll
    for (int o = G / 2; o > 0; o /= 2) {
      const double u = __shfl_xor_sync(~0u, top, o);
      const int other = __shfl_xor_sync(~0u, best, o);
      if (u > top || (u == top && other < best)) top = u, best = other;
    }
    const double common = COMMON ? -0.5 * length : 0.0, rest = base - common;
    const bool outside = rest > top;
    if (outside) top = rest, best = -1;
    double s = 0.0, m = 0.0;
#pragma unroll(KEEP ? V : 1)
    for (int i = 0; i < V; ++i) {
      const int k = i * G + l;
      if (in && k < K) {
        const double d = (KEEP ? v[KEEP ? i : 0] : own[k]) - top, e = exp(d);
        if (KEEP) v[KEEP ? i : 0] = e;
        else own[k] = e;
        s += e;
        m += e * d;
      }
    }
#pragma unroll
    for (int o = G / 2; o > 0; o /= 2) {
      s += __shfl_xor_sync(~0u, s, o);
      m += __shfl_xor_sync(~0u, m, o);
    }
    double share = 0.0;
    if (rest > -1e308) {
      const double d = rest - top;
      share = exp(d);
      s += share;
      m += share * d;
    }
    bool drop = false;
    if (in && !(length <= limit)) {  // rare: rows that are far, or a component that is narrow
      drop = !(length < 1e280) || !(s > 0.0 && s < 1e300);
      const double reach = sqrt(length);
      for (int i = 0; i < V; ++i) {
        const int k = i * G + l;
        if (k < K) {
          const double far = reach + bounds[K + k], error = bounds[k] * far * far, e = KEEP ? v[KEEP ? i : 0] : own[k];
          drop |= !(error <= TOLERANCE) && (!(error < 1.0) || e > NEGLIGIBLE * s);
        }
      }
    }
    int dropped = drop;
#pragma unroll
    for (int o = G / 2; o > 0; o /= 2) dropped |= __shfl_xor_sync(~0u, dropped, o);
    const double f = dropped ? 0.0 : 1.0 / s, scaled = w > 0.0 ? f * w : 0.0;
#pragma unroll(KEEP ? V : 1)
    for (int i = 0; i < V; ++i) {
      const int k = i * G + l;
      bool keep = false;
      if (in && k < K) {
        const double e = KEEP ? v[KEEP ? i : 0] : own[k];
        keep = kept != nullptr && scaled > 0.0 && e > bounds[2 * K + k] * s;
        if (resp != nullptr) resp[row * width + k] = dropped ? 0.0 : e * f;
        if (!alone || keep) own[k] = dropped ? 0.0 : e * scaled;
      }
      if (kept != nullptr) {
        const unsigned bits = __ballot_sync(~0u, keep) >> (threadIdx.x % 32 - l) & OWN;
        if (in && l == 0) {
          kept[row * V + i] = bits;
          pairs += __popc(bits);
        }
      }
    }
    if (in) {
      if (l == 0) {
        const double log_sum = dropped ? 0.0 : log(s);
        if (!dropped && w > 0.0) {
          tops += w * (top + common);
          logs += w * log_sum;
          mixed += m * scaled;
          mass += w;
          rows += 1.0;
          spread += w * (length > 1.0 ? length : 1.0);
        }
        left += dropped;
        declined[row] = (unsigned char)dropped;
        if (taken != nullptr) taken[row] = dropped ? 0.0 : scaled * (s - share);
        if (logp != nullptr) logp[row] = top + common + log_sum;
        if (label != nullptr) label[row] = best;
        if (resp != nullptr && width > K) resp[row * width + K] = dropped ? 0.0 : share * f;
      }
    }
  }
  double sums[8] = {tops, logs, mixed, mass, rows, left, pairs, spread};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int o = 16; o > 0; o /= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], o);
    if (threadIdx.x % 32 == 0) shared[i][threadIdx.x / 32] = sums[i];
  }
  __syncthreads();
  if (threadIdx.x < 8) {
    double t = 0.0;
    for (int w = 0; w < 8; ++w) t += shared[threadIdx.x][w];
    double* out = totals + (int64)blockIdx.x * 8 + threadIdx.x;
    *out = first ? t : *out + t;
  }
}

// out = phi times one number for each row.
extern "C" __global__ void scale(const double* __restrict__ phi, const double* __restrict__ taken, int64 n, double* __restrict__ out) {
  for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n * P; i += (int64)gridDim.x * blockDim.x) out[i] = phi[i] * taken[i / P];
}
