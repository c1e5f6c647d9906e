// One E-step in one kernel: whitening, logits, softmax, statistics; only partial sums leave the chip.
// Both products run on the FP64 tensor cores (m16n8). Features are made in registers from z in shared memory, in cyclic
// order: a tile of 8 features is z_g z_(g+r), so that no lane needs an index that is unknown at compile time.
// Compile-time: D, E (D padded, see layout.py), KP (K padded), FAM (0 products of features, 2 squares alone), WARPS,
// RT (tiles of 16 rows per warp), MS x NS (splits of features x components in the statistics), MINB (blocks per
// multiprocessor), WEIGHTED, NOISE (0 or 1), WIDE (rows are read 16 bytes at a time), MMA8 (older tensor cores),
// TOLERANCE, NEGLIGIBLE.
constexpr int E8 = E < 8 ? 1 : E / 8, AGAIN = E <= 8 ? E / 2 : 8;  // how much of z is there a second time
constexpr int THREADS = 32 * WARPS, B = 16 * RT * WARPS, NT = KP / 8;
constexpr int RG = WARPS / (MS * NS), ROWS = B / RG, NTW = NT / NS;
constexpr bool CYCLIC = E > 4 && FAM == 0;
constexpr bool SHARED_ONES = CYCLIC && E % 16 == 8;                // half of the last tile of products holds the ones
constexpr int PROD = E == 4 ? 1 : (FAM == 2 ? E8 : E / 2 * E8);    // tiles of z_g z_(g+r), r < E/2; or of z_g^2
constexpr int HALF = CYCLIC ? (E + 15) / 16 : 0;                   // tiles of z_g z_(g+E/2)
constexpr int LIN = E8;                                            // tiles of z_g (E = 4: the second tile)
constexpr int ONES = E == 4 || SHARED_ONES ? 0 : 1;
constexpr int MT = ((PROD + HALF + LIN + ONES + 1) / 2 + MS - 1) / MS * MS, MTW = MT / MS, TILES = 2 * MT;
constexpr int STEPS0 = E == 4 ? 3 : 2 * (PROD + HALF + LIN) - (SHARED_ONES ? 1 : 0);
constexpr int STEPS = (STEPS0 + KSTEP - 1) / KSTEP * KSTEP;
constexpr bool LOOP = E >= 16 && FAM == 0;
constexpr int ZS = E <= 8 ? 12 : E + 12, SR = KP + 4;
constexpr int COEF = STEPS * NT * 32, SUMS = 8 * TILES * KP, RECORD = SUMS + 8;
static_assert(RG * MS * NS == WARPS && NTW * NS == NT && RT * 16 <= 32, "splits");
static_assert(SUMS + 8 * WARPS <= COEF + KP + B * (ZS + SR), "the sums of a block stand in the same shared memory");

// What every row meets. Arguments of a kernel are operands of its instructions, and each launch has its own.
struct Frame {
  double shift[E], whiten[FAM == 2 ? E : E * (E + 1) / 2];
  double base;   // log-density of the background, its weight included; -inf for none
  double limit;  // |z|^2 up to which no component is too narrow for the feature form
};

// Features 4 h + t of tile j, for the row whose z, moved by t, is given: everything but t is known when compiled.
__device__ __forceinline__ double step_feature(const double* z, int s) {
  int j = s / 2, h = s % 2;
  if (E == 4) return s == 3 ? 0.0 : z[0] * z[s];
  if (SHARED_ONES && s >= 2 * (PROD + HALF) - 1) { j = (s + 1) / 2; h = (s + 1) % 2; }
  if (s >= STEPS0) return 0.0;
  if (FAM == 2) return j < PROD ? z[8 * j + 4 * h] * z[8 * j + 4 * h] : z[8 * (j - PROD) + 4 * h];
  if (j < PROD) { int r = j / E8, c = j % E8 * 8 + 4 * h; return z[c] * z[E == 8 ? c + r : (c + r) % E]; }
  if (j < PROD + HALF) { int c = (j - PROD) * 8 + 4 * h; return z[c] * z[c + E / 2]; }
  return z[8 * (j - PROD - HALF) + 4 * h];
}

// Feature g of tile j, for the row whose z is given.
__device__ __forceinline__ double tile_feature(const double* z, int j, int g) {
  if (E == 4) { const double* y = z + g % 4; return j == 0 ? y[0] * y[g / 4] : (j == 1 && g < 4 ? y[0] * y[2] : 0.0); }
  const double* y = z + g;
  if (FAM == 2) return j < PROD ? y[8 * j] * y[8 * j] : j < PROD + LIN ? y[8 * (j - PROD)] : j == PROD + LIN ? 1.0 : 0.0;
  if (j < PROD) { int r = j / E8, c = j % E8 * 8; return y[c] * y[E == 8 ? c + r : (c + r) % E]; }
  if (SHARED_ONES && j == PROD + HALF - 1) return g < 4 ? y[8 * (HALF - 1)] * y[8 * (HALF - 1) + E / 2] : 1.0;
  if (j < PROD + HALF) return y[8 * (j - PROD)] * y[8 * (j - PROD) + E / 2];
  if (j < PROD + HALF + LIN) return y[8 * (j - PROD - HALF)];
  return j == PROD + HALF + LIN && ONES ? 1.0 : 0.0;
}

template <int WM>
__device__ __forceinline__ void statistics(double (&acc)[MTW][NTW][4], const double* zs, const double* rs, int g, int t) {
#pragma unroll 1
  for (int b0 = 0; b0 < ROWS; b0 += 4 * KSTEP) {
    double b[NTW][KSTEP];
#pragma unroll
    for (int s = 0; s < KSTEP; ++s)
#pragma unroll
      for (int n = 0; n < NTW; ++n) b[n][s] = rs[(b0 + 4 * s + t) * SR + 8 * n + g];
#pragma unroll
    for (int m = 0; m < MTW; ++m) {
      double a[2 * KSTEP];
#pragma unroll
      for (int s = 0; s < KSTEP; ++s) {
        const double* z = zs + (b0 + 4 * s + t) * ZS;
        a[2 * s] = tile_feature(z, 2 * (WM * MTW + m), g);
        a[2 * s + 1] = tile_feature(z, 2 * (WM * MTW + m) + 1, g);
      }
#pragma unroll
      for (int n = 0; n < NTW; ++n) mma(acc[m][n], a, b[n]);
    }
  }
}

template <int WM>
__device__ __forceinline__ void split(int wm, double (&acc)[MTW][NTW][4], const double* zs, const double* rs, int g, int t) {
  if (wm == WM) statistics<WM>(acc, zs, rs, g, t);
  else if constexpr (WM + 1 < MS) split<WM + 1>(wm, acc, zs, rs, g, t);
}

__device__ __forceinline__ void barrier() {  // a warp that shares nothing with others need not wait for them
  if (RG == WARPS) __syncwarp(); else __syncthreads();
}

__device__ __forceinline__ double larger(double a, double b) { return a < b ? b : a; }  // fmax has NaN to care for

// exp(d) for d <= 0, to 3e-16 of itself near 0 and of 1 elsewhere; `power` is 2^(lane / 32). d = (32 m + j) ln 2 / 32 + r
// with |r| <= ln 2 / 64, and exp(d) = 2^m 2^(j / 32) (1 + r q(r)), where q interpolates (exp(r) - 1) / r. All lanes take part.
__device__ __forceinline__ double exp_of(double d, double power) {
  constexpr double SHIFT = 6755399441055744.0;  // 1.5 2^52: a sum with it has its integer part in the low bits
  const double t = fma(d, 46.16624130844683, SHIFT), r = fma(t - SHIFT, -0.02166084939249829, d);
  const int n = __double2loint(t);
  double q = fma(r, 0.008333363600483422, 0.041666878536819885);
  q = fma(q, r, 0.16666666666574323);
  q = fma(q, r, 0.499999999993536);
  q = fma(q, r, 1.0);
  const double p = __shfl_sync(~0u, power, n & 31), s = fma(p * r, q, p);
  const bool none = (unsigned)__double2hiint(d) > 0xc0862000u;  // below -708
  return none ? 0.0 : __hiloint2double(__double2hiint(s) + (n >> 5 << 20), __double2loint(s));
}

// Ask for the rows of the next tile while this one is worked on: 1 % faster.
__device__ __forceinline__ void prefetch(const XT* x) {
#ifndef EMULATE
#pragma unroll
  for (int i = 0; i < (int)(D * sizeof(XT)); i += 128) asm volatile("prefetch.global.L1 [%0];" ::"l"((const char*)x + i));
#endif
}

// One row as doubles. Shared memory and the cache of rows have one path, which is the busiest part of the chip: reading
// and writing 16 bytes at a time takes half of it.
__device__ __forceinline__ void read_row(const XT* __restrict__ x, double (&v)[D]) {
#pragma unroll
  for (int i = 0; i < D; i += WIDE ? 16 / (int)sizeof(XT) : 1) {
    if constexpr (!WIDE) v[i] = (double)x[i];
    else if constexpr (sizeof(XT) == 8) {
      const double2 p = *(const double2*)(x + i);
      v[i] = p.x, v[i + 1] = p.y;
    } else {
      const float4 p = *(const float4*)(x + i);
      v[i] = p.x, v[i + 1] = p.y, v[i + 2] = p.z, v[i + 3] = p.w;
    }
  }
}

// Whether the feature form may err by more than TOLERANCE on a row, as far as the components of this lane say.
__device__ __forceinline__ bool inaccurate(const double (&c)[NT][4], int h, double sum, double reach, const double* __restrict__ narrow, int t) {
  const double* radius = narrow + KP;
  bool off = !(sum > 0.0 && sum < 1e300);
#pragma unroll
  for (int k = 0; k < NT; ++k)
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const int at = 8 * k + 2 * t + q;
      const double far = reach + radius[at], error = narrow[at] * far * far;
      off |= !(error <= TOLERANCE) && (!(error < 1.0) || c[k][2 * h + q] > NEGLIGIBLE * sum);
    }
  return off;
}

// coef: fragments of the logits' coefficients (COEF), constants (KP), what `inaccurate` needs (2 KP), 2^(j / 32) (32).
// part: a record of sums and totals for each block. declined: a bit for each row that is left to the host.
extern "C" __global__ void __launch_bounds__(THREADS, MINB)
fused(const XT* __restrict__ x, int64 n, const double* __restrict__ weight, const Frame frame,
      const double* __restrict__ coef, double* __restrict__ part, unsigned short* __restrict__ declined) {
  extern __shared__ double sm[];
  double *cs = sm, *constant = cs + COEF, *zs = constant + KP, *rs = zs + B * ZS;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4;
  const int wn = warp % NS, wm = warp / NS % MS, rg = warp / (NS * MS);
  for (int i = tid; i < COEF + KP; i += THREADS) cs[i] = coef[i];
  const double power = coef[COEF + 3 * KP + lane];
  double acc[MTW][NTW][4] = {};
  double tops = 0.0, logs = 0.0, mixed = 0.0, mass = 0.0;  // sums of w top, w log sum, w r (logit - top), w
  double fraction = 1.0;  // without weights: the product of all sums is this times 2^exponent
  int exponent = 0, rows = 0, left = 0;
  __syncthreads();
  const int64 count = (n + B - 1) / B;
  for (int64 tile = blockIdx.x; tile < count; tile += gridDim.x) {
    bool here = false, far = false, wild = false;
    if (lane < 16 * RT) {  // one lane per row: z = whiten (x - shift), and its beginning again
      const int b = warp * 16 * RT + lane;
      const int64 row = tile * B + b;
      here = row < n && (!WEIGHTED || weight[row] > 0.0);
      double v[D] = {}, *z = zs + b * ZS, norm = 0.0, before = 0.0;
      if (here) {
        read_row(x + row * D, v);
#pragma unroll
        for (int i = 0; i < D; ++i) v[i] -= frame.shift[i];
      }
#pragma unroll
      for (int i = 0; i < E; ++i) {
        double s = E == 4 && i == D ? 1.0 : 0.0;
        if (i < D) {
          if (FAM == 2) s = frame.whiten[i] * v[i];
          else
#pragma unroll
            for (int j = 0; j <= i; ++j) s += frame.whiten[i * (i + 1) / 2 + j] * v[j];
          norm += s * s;
        }
        if (i % 2 == 0) before = s;
        else {
          *(double2*)(z + i - 1) = make_double2(before, s);
          if (i < AGAIN) *(double2*)(z + E + i - 1) = make_double2(before, s);
        }
      }
      far = !(norm <= frame.limit);
      wild = !(norm < 1e280);  // NaN, infinity, or squares that overflow
      const int64 next = row + (int64)gridDim.x * B;
      if (next < n) prefetch(x + next * D);
      if (wild)
        for (int i = 0; i < E + AGAIN; ++i) z[i] = 0.0;
    }
    const unsigned present = __ballot_sync(~0u, here), suspect = __ballot_sync(~0u, far);
    const unsigned useless = suspect ? __ballot_sync(~0u, wild) : 0u;
    barrier();
    double c[RT][NT][4];
#pragma unroll
    for (int i = 0; i < RT; ++i)
#pragma unroll
      for (int k = 0; k < NT; ++k) {
        c[i][k][0] = c[i][k][2] = constant[8 * k + 2 * t];
        c[i][k][1] = c[i][k][3] = constant[8 * k + 2 * t + 1];
      }
    const double* zrow = zs + (warp * 16 * RT + g) * ZS + t;
    auto product = [&](const double (&a)[RT][2 * KSTEP], int s0) {
#pragma unroll
      for (int k = 0; k < NT; ++k) {
        double b[KSTEP];
#pragma unroll
        for (int s = 0; s < KSTEP; ++s) b[s] = cs[((s0 + s) * NT + k) * 32 + lane];
#pragma unroll
        for (int i = 0; i < RT; ++i) mma(c[i][k], a[i], b);
      }
    };
    if (LOOP) {  // many products: a loop over z_c, to keep the code and the registers small
#pragma unroll 1
      for (int q = 0; q < E / 4; ++q)
#pragma unroll
        for (int r = 0; r < E / 2; r += KSTEP) {
          double a[RT][2 * KSTEP];
#pragma unroll
          for (int s = 0; s < KSTEP; ++s) {
            const int o = 4 * q + r + s, w = o >= E ? o - E : o;
#pragma unroll
            for (int i = 0; i < RT; ++i)
#pragma unroll
              for (int h = 0; h < 2; ++h) a[i][2 * s + h] = zrow[(16 * i + 8 * h) * ZS + 4 * q] * zrow[(16 * i + 8 * h) * ZS + w];
          }
          product(a, q * (E / 2) + r);
        }
    }
#pragma unroll
    for (int s0 = LOOP ? 2 * PROD : 0; s0 < STEPS; s0 += KSTEP) {
      double a[RT][2 * KSTEP];
#pragma unroll
      for (int i = 0; i < RT; ++i)
#pragma unroll
        for (int s = 0; s < KSTEP; ++s)
#pragma unroll
          for (int h = 0; h < 2; ++h) a[i][2 * s + h] = step_feature(zrow + (16 * i + 8 * h) * ZS, s0 + s);
      product(a, s0);
    }
    unsigned dropped = 0u;
#pragma unroll
    for (int i = 0; i < RT; ++i) {  // softmax over the components: 4 lanes hold a row
      double top[2], sum[2], mean[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        double m = c[i][0][2 * h];
#pragma unroll
        for (int k = 0; k < NT; ++k) m = larger(m, larger(c[i][k][2 * h], c[i][k][2 * h + 1]));
        m = larger(m, __shfl_xor_sync(~0u, m, 1));
        m = larger(m, __shfl_xor_sync(~0u, m, 2));
        if (NOISE) m = larger(m, frame.base);
        double s = 0.0, u = 0.0;
#pragma unroll
        for (int k = 0; k < NT; ++k)
#pragma unroll
          for (int q = 0; q < 2; ++q) {
            const double d = c[i][k][2 * h + q] - m, e = exp_of(d, power);
            c[i][k][2 * h + q] = e;
            s += e;
            u += e * d;
          }
        s += __shfl_xor_sync(~0u, s, 1);
        s += __shfl_xor_sync(~0u, s, 2);
        if (NOISE) {
          const double d = frame.base - m, e = exp_of(d, power);
          s += e;
          if (t == 0) u += e * d;
        }
        top[h] = m;
        sum[h] = s;
        mean[h] = u;
      }
      if (suspect >> (16 * i) & 0xffffu) {  // rare: rows that are far, or a component that is narrow
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int b = 16 * i + 8 * h + g;
          bool drop = false;
          if (suspect >> b & 1u) {
            const double* z = zs + (warp * 16 * RT + b) * ZS;
            double norm = 0.0;
            for (int j = 0; j < D; ++j) norm += z[j] * z[j];
            drop = useless >> b & 1u || inaccurate(c[i], h, sum[h], sqrt(norm), coef + COEF + KP, t);
          }
          const unsigned lanes = __ballot_sync(~0u, drop);
          for (int r = 0; r < 8; ++r)
            if (lanes >> (4 * r) & 0xfu) dropped |= (present >> (16 * i + 8 * h + r) & 1u) << (16 * i + 8 * h + r);
          if (lanes >> (4 * g) & 0xfu) {
            top[h] = mean[h] = 0.0;
            sum[h] = 1.0;
#pragma unroll
            for (int k = 0; k < NT; ++k) c[i][k][2 * h] = c[i][k][2 * h + 1] = 0.0;
          }
        }
      }
      const unsigned taken = present & ~dropped;
      const int r0 = warp * 16 * RT + 16 * i + g;
      double w0 = taken >> (16 * i + g) & 1u ? 1.0 : 0.0, w1 = taken >> (16 * i + 8 + g) & 1u ? 1.0 : 0.0;
      if (WEIGHTED) {
        if (w0 > 0.0) w0 = weight[tile * B + r0];
        if (w1 > 0.0) w1 = weight[tile * B + r0 + 8];
        mass += t == 0 ? w0 : t == 1 ? w1 : 0.0;
      }
      // Even lanes divide for one row, odd ones for the other; the first two of four add up.
      const double own = t % 2 == 0 ? sum[0] : sum[1], mine = (t % 2 == 0 ? w0 : w1) / own, other = __shfl_xor_sync(~0u, mine, 1);
      const double f0 = t % 2 == 0 ? mine : other, f1 = t % 2 == 0 ? other : mine;
      mixed += mean[0] * f0 + mean[1] * f1;
      const double w = t == 0 ? w0 : t == 1 ? w1 : 0.0;
      tops += w * (t == 0 ? top[0] : top[1]);
      if (WEIGHTED) logs += w * log(own);
      else if (w > 0.0) fraction *= own;
#pragma unroll
      for (int k = 0; k < NT; ++k) {
        *(double2*)(rs + r0 * SR + 8 * k + 2 * t) = make_double2(c[i][k][0] * f0, c[i][k][1] * f0);
        *(double2*)(rs + (r0 + 8) * SR + 8 * k + 2 * t) = make_double2(c[i][k][2] * f1, c[i][k][3] * f1);
      }
    }
    if (!WEIGHTED) {  // sums are 1 to K + 1: no product of a few overflows
      const int high = __double2hiint(fraction);
      exponent += (high >> 20) - 1023;
      fraction = __hiloint2double((high & 0xfffff) | 0x3ff00000, __double2loint(fraction));
    }
    rows += __popc(present & ~dropped);
    left += __popc(dropped);
    if (lane < RT) declined[(tile * WARPS + warp) * RT + lane] = (unsigned short)(dropped >> (16 * lane));
    barrier();
    split<0>(wm, acc, zs + rg * ROWS * ZS, rs + rg * ROWS * SR + 8 * wn * NTW, g, t);
    barrier();
  }
  __syncthreads();
#pragma unroll 1
  for (int r = 0; r < RG; ++r) {  // the groups of rows of this block, one after the other
    if (rg == r) {
#pragma unroll
      for (int m = 0; m < MTW; ++m)
#pragma unroll
        for (int k = 0; k < NTW; ++k)
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            double* s = sm + (16 * (wm * MTW + m) + g + 8 * (q / 2)) * KP + 8 * (wn * NTW + k) + 2 * t + q % 2;
            *s = r == 0 ? acc[m][k][q] : *s + acc[m][k][q];
          }
    }
    __syncthreads();
  }
  if (!WEIGHTED) logs = log(fraction) + exponent * 0.69314718055994530942;
#pragma unroll
  for (int o = 16; o > 0; o /= 2) {
    tops += __shfl_xor_sync(~0u, tops, o);
    logs += __shfl_xor_sync(~0u, logs, o);
    mixed += __shfl_xor_sync(~0u, mixed, o);
    mass += __shfl_xor_sync(~0u, mass, o);
  }
  if (lane == 0) {
    double* s = sm + SUMS + 8 * warp;
    s[0] = tops, s[1] = logs, s[2] = mixed, s[3] = WEIGHTED ? mass : (double)rows;
    s[4] = rows, s[5] = left, s[6] = s[7] = 0.0;
  }
  __syncthreads();
  double* out = part + (int64)blockIdx.x * RECORD;
  for (int i = tid; i < SUMS; i += THREADS) out[i] = sm[i];
  if (tid < 8) {
    double s = 0.0;
    for (int w = 0; w < WARPS; ++w) s += sm[SUMS + 8 * w + tid];
    out[SUMS + tid] = s;
  }
}
