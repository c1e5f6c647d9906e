// Statistics of the pairs (row, component) that matter, for a family with all products of features; see sparse.py.
// A row of features ends with y = (z, 1), and the sums of w r y y^T are all statistics of a component. Their lower triangle
// is cut into patches of 32 x 32; one warp adds to one patch, for a share of a component's pairs, on the tensor cores.
// Compile-time: D, P (numbers in a row of features, padded), K, MMA8 (older tensor cores).
constexpr int W = D + 1, SIDE = (W + 31) / 32, PATCHES = SIDE * (SIDE + 1) / 2, WORDS = (K + 31) / 32;
constexpr int WARPS = PATCHES < 8 ? PATCHES : 8, BEGIN = D * (D + 1) / 2;  // where y begins in a row of features
constexpr int ROUND = 1024;                                                // rows that a warp looks through at a time

// Bits of n rows, WORDS for each, turned into bits of components: `count` words of 32 rows for each.
extern "C" __global__ void turn(const unsigned* __restrict__ kept, int64 n, int64 count, unsigned* __restrict__ turned) {
  const int lane = threadIdx.x % 32;
  const int64 at = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (at >= count * WORDS) return;
  const int64 word = at / WORDS, row = 32 * word + lane;
  const int u = (int)(at % WORDS), k = 32 * u + lane;
  const unsigned mine = row < n ? kept[row * WORDS + u] : 0u;
  unsigned bits = 0u;
#pragma unroll
  for (int c = 0; c < 32; ++c) {
    const unsigned rows = __ballot_sync(~0u, mine >> c & 1u);
    if (lane == c) bits = rows;
  }
  if (k < K) turned[k * count + word] = bits;
}

__device__ __forceinline__ void corner(int patch, int& row, int& column) {
  row = 0;
  while (patch > row) patch -= ++row;
  column = 32 * patch;
  row *= 32;
}

// Features 8 f + g of y from `first` on, of the pairs 4 s + t. Beyond W there are none.
__device__ __forceinline__ void fetch(double (&out)[4][KSTEP], const double* const (&y)[KSTEP], int first) {
#pragma unroll
  for (int f = 0; f < 4; ++f)
#pragma unroll
    for (int s = 0; s < KSTEP; ++s) out[f][s] = W % 32 == 0 || first + 8 * f < W ? y[s][first + 8 * f] : 0.0;
}

// Add `count` listed rows to a patch, 16 at a time. DIAGONAL: rows and columns of the patch are the same features.
template <bool DIAGONAL>
__device__ __forceinline__ void add(double (&acc)[2][4][4], const double* y, const double* weighted, const int* list, int count,
                                    int row, int column, int g, int t) {
#pragma unroll 1
  for (int i0 = 0; i0 < count; i0 += 4 * KSTEP) {
    const double* from[KSTEP];
    double v[KSTEP], right[4][KSTEP], left[DIAGONAL ? 1 : 4][KSTEP];
#pragma unroll
    for (int s = 0; s < KSTEP; ++s) {
      const int i = i0 + 4 * s + t;
      const int64 at = list[i < count ? i : i0];
      v[s] = i < count ? weighted[at * K] : 0.0;
      from[s] = y + at * P;
    }
    fetch(right, from, column + g);
    if constexpr (!DIAGONAL) fetch(left, from, row + g);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if (W % 32 != 0 && row + 16 * m >= W) continue;
      double a[2 * KSTEP];
#pragma unroll
      for (int s = 0; s < KSTEP; ++s)
#pragma unroll
        for (int h = 0; h < 2; ++h) a[2 * s + h] = v[s] * (DIAGONAL ? right[2 * m + h][s] : left[DIAGONAL ? 0 : 2 * m + h][s]);
#pragma unroll
      for (int n = 0; n < (DIAGONAL ? 2 * m + 2 : 4); ++n)
        if (W % 32 == 0 || column + 8 * n < W) mma(acc[m][n], a, right[n]);
    }
  }
}

// Add the kept pairs of a batch to `part`: (K, slices, PATCHES, 32, 32). Slice s of a component has every `slices`-th word
// of 32 rows, beginning with the word s, so that sorted rows are shared out evenly, and every sum has one order.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
gathered(const double* __restrict__ phi, const double* __restrict__ weighted, const unsigned* __restrict__ turned, int64 count,
         int64 slices, double* __restrict__ part) {
  __shared__ int lists[WARPS][ROUND + 16];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, patch = blockIdx.y * WARPS + warp;
  if (patch >= PATCHES) return;
  int row, column;
  corner(patch, row, column);
  const int64 k = blockIdx.x / slices, first = blockIdx.x % slices;
  const unsigned* own = turned + k * count;
  int *list = lists[warp], held = 0;
  bool any = false;
  double acc[2][4][4] = {};
  unsigned bits = first + lane * slices < count ? own[first + lane * slices] : 0u;
#pragma unroll 1
  for (int64 word = first; word < count; word += 32 * slices) {
    const int64 mine = word + lane * slices, next = mine + 32 * slices;
    const unsigned later = next < count ? own[next] : 0u;
    if (__ballot_sync(~0u, bits != 0u)) {
      const int here = __popc(bits);
      int until = here;  // rows listed by the lanes up to this one
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int others = __shfl_sync(~0u, until, (lane - o) & 31);
        if (lane >= o) until += others;
      }
      const int found = __shfl_sync(~0u, until, 31);
      for (int* to = list + held + until - here; bits != 0u; bits &= bits - 1u) *to++ = (int)(32 * mine) + __popc((bits & -bits) - 1u);
      held += found;
      __syncwarp();
    }
    bits = later;
    const int ready = word + 32 * slices < count ? held & ~15 : held;  // the last few wait for the next round
    if (ready > 0) {
      any = true;
      if (row == column) add<true>(acc, phi + BEGIN, weighted + k, list, ready, row, column, g, t);
      else add<false>(acc, phi + BEGIN, weighted + k, list, ready, row, column, g, t);
      const int rest = lane < held - ready ? list[ready + lane] : 0;
      __syncwarp();
      if (lane < held - ready) list[lane] = rest;
      __syncwarp();
      held -= ready;
    }
  }
  if (!any) return;
  double* out = part + ((int64)blockIdx.x * PATCHES + patch) * 1024;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        double2* to = (double2*)(out + (16 * m + 8 * h + g) * 32 + 8 * n + 2 * t);
        const double2 before = *to;
        *to = make_double2(before.x + acc[m][n][2 * h], before.y + acc[m][n][2 * h + 1]);
      }
}

// The sums of all slices, in their order: the lower triangle of the sums of w r y y^T, which is a row of `Sums.feature`.
extern "C" __global__ void collect(const double* __restrict__ part, int64 slices, double* __restrict__ out) {
  const int64 all = (int64)K * PATCHES * 1024;
  for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (int64)gridDim.x * blockDim.x) {
    const int64 k = i / (PATCHES * 1024), at = i % (PATCHES * 1024);
    int row, column;
    corner((int)(at / 1024), row, column);
    row += (int)(at / 32 % 32);
    column += (int)(at % 32);
    if (row > D || column > row) continue;
    double s = 0.0;
    for (int64 j = 0; j < slices; ++j) s += part[(k * slices + j) * (PATCHES * 1024) + at];
    out[k * (BEGIN + W) + row * (row + 1) / 2 + column] = s;
  }
}
