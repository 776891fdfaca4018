// The quantizers of arXiv 1905.11452 on a GPU: one pass forward, one pass backward, and the limits of their scalars.
//
// Numbers are those of the composed functions of common/quantizers: the same float operations in the same order, without
// fused products (compile with --fmad=false). Sums are taken in shared memory, by a tree of fixed shape: equal inputs
// give equal bits. No warp function is used: their masks differ between generations of devices.

#define BLOCK 256                       // threads; common/gpu/quantizers.py has the same number
#define SMALLEST 1.40129846e-45f        // above 0
#define LARGEST 3.40282347e+38f
#define LARGEST_POWER 1.70141183e+38f   // 2^127
#define LN_2 0.693147181f
#define PER_LN_2 1.44269504f            // 1 / ln 2
#define SQRT_HALF 0.707106781f

// How two scalars a and b describe the smallest magnitude, or step size, and the largest one.
enum Kind { GIVEN, D_XMAX, D_N, N_XMAX, XMIN_XMAX, POW2_N_XMAX, POW2_N_XMIN };

struct Quantizer {
    const float *x, *a, *b;             // tensor of `size` elements, and two scalars
    float *y;
    const float *dy;
    float *dx, *da, *db;                // gradients; 0: not wanted
    float *sums;                        // (2, blocks): parts of the gradients to the smallest and to the largest
    unsigned long long size;
    float a_lowest, a_highest, b_lowest, b_highest;
    int kind, reserved, pow2, sign, with_zero;    // reserved: bits for sign and zero
    int add_dx, add_da, add_db, blocks;           // add: to the gradient that is there
};

struct Range { float small, large; };

__device__ float clipped(float value, float lowest, float highest) {
    value = value > lowest ? value : lowest;
    return value < highest ? value : highest;
}

__device__ int inside(float value, float lowest, float highest) { return value > lowest && value < highest; }

__device__ float two_to(float whole) { return ldexpf(1.0f, (int)clipped(whole, -300.0f, 300.0f)); }

// The power of two that is nearest in the log domain.
__device__ float power_of_two(float value) { return two_to(roundf(logf(value) * PER_LN_2)); }

__device__ Range range_of(const Quantizer &q) {
    Range r;
    float a = *q.a, b = *q.b;
    if (q.kind == GIVEN) {
        r.small = a;
        r.large = b;
        return r;
    }
    a = clipped(a, q.a_lowest, q.a_highest);
    b = clipped(b, q.b_lowest, q.b_highest);
    float levels;
    switch (q.kind) {
    case D_XMAX:
        r.small = power_of_two(a);
        r.large = b;
        break;
    case D_N:
        levels = two_to(roundf(b) - q.reserved);
        r.small = power_of_two(a);
        r.large = r.small * (levels - 1.0f);
        break;
    case N_XMAX:
        levels = two_to(roundf(a) - q.reserved);
        r.small = power_of_two(b / (levels - 1.0f));
        r.large = b;
        break;
    case XMIN_XMAX:
        r.small = power_of_two(a);
        r.large = power_of_two(b);
        break;
    case POW2_N_XMAX:
        levels = two_to(roundf(a) - q.reserved);
        r.large = power_of_two(b);
        r.small = two_to(1.0f - levels) * r.large;
        break;
    default:    // POW2_N_XMIN
        levels = two_to(roundf(a) - q.reserved);
        r.small = power_of_two(b);
        r.large = two_to(levels - 1.0f) * r.small;
    }
    return r;
}

// A gradient of 0 stays 0 where a range has no end that float32 can hold.
__device__ float times(float gradient, float factor) { return gradient == 0.0f ? 0.0f : gradient * factor; }

// From gradients to the ends of the range to those of a and b; roundings are passed straight through.
__device__ void to_scalars(const Quantizer &q, float to_small, float to_large, float *to_a, float *to_b) {
    if (q.kind == GIVEN) {
        *to_a = to_small;
        *to_b = to_large;
        return;
    }
    const Range r = range_of(q);
    if (q.pow2 && !(r.large < LARGEST)) to_large = 0.0f;    // the largest magnitude is a limit then
    const float a = clipped(*q.a, q.a_lowest, q.a_highest), b = clipped(*q.b, q.b_lowest, q.b_highest);
    const float levels = two_to(roundf(q.kind == D_N ? b : a) - q.reserved);
    float step;
    switch (q.kind) {
    case D_XMAX:
        *to_a = to_small * r.small / a;
        *to_b = to_large;
        break;
    case D_N:
        *to_a = (to_small + to_large * (levels - 1.0f)) * r.small / a;
        *to_b = to_large * r.small * levels * LN_2;
        break;
    case N_XMAX:
        step = b / (levels - 1.0f);
        to_small = to_small * r.small / step;
        *to_a = -to_small * step / (levels - 1.0f) * levels * LN_2;
        *to_b = to_large + to_small / (levels - 1.0f);
        break;
    case XMIN_XMAX:
        *to_a = to_small * r.small / a;
        *to_b = to_large * r.large / b;
        break;
    case POW2_N_XMAX:
        *to_a = -to_small * r.small * LN_2 * levels * LN_2;
        *to_b = (to_large + to_small * two_to(1.0f - levels)) * r.large / b;
        break;
    default:    // POW2_N_XMIN
        *to_a = times(to_large * r.small, two_to(levels - 1.0f)) * LN_2 * levels * LN_2;
        *to_b = (to_small + times(to_large, two_to(levels - 1.0f))) * r.small / b;
    }
    if (!inside(*q.a, q.a_lowest, q.a_highest)) *to_a = 0.0f;
    if (!inside(*q.b, q.b_lowest, q.b_highest)) *to_b = 0.0f;
}

__device__ float uniform_level(float x, Range r, int sign) {
    const float lower = sign ? -r.large : 0.0f;
    float c = x > lower ? x : lower;
    c = c < r.large ? c : r.large;
    return r.small * roundf(c / r.small);
}

// Magnitudes are rounded in the log domain where they lie between the ends of the range.
__device__ float rounded_magnitude(float magnitude) {
    return power_of_two(clipped(magnitude, SMALLEST, LARGEST_POWER));
}

__device__ float magnitude_of(float x, int sign) { return sign ? fabsf(x) : (x > 0.0f ? x : 0.0f); }

__device__ int is_low(float magnitude, Range r, int with_zero) {
    return magnitude < r.small && (!with_zero || magnitude >= r.small * SQRT_HALF);
}

__device__ float pow2_level(float x, Range r, int sign, int with_zero) {
    const float magnitude = magnitude_of(x, sign);
    const int high = magnitude >= r.large;
    float y = is_low(magnitude, r, with_zero) ? r.small : 0.0f;
    if (high) y += r.large;
    else if (magnitude >= r.small && magnitude > 0.0f) y = rounded_magnitude(magnitude);    // r.small may be 0
    return sign && x < 0.0f ? -y : y;
}

__device__ Range range_for(const Quantizer &q) {
    Range r = range_of(q);
    if (q.pow2 && !(r.large < LARGEST)) r.large = LARGEST;    // infinity times 0 would be NaN
    return r;
}

extern "C" __global__ void quantize_forward(const Quantizer q) {
    const Range r = range_for(q);
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < q.size; i += stride) {
        const float x = q.x[i];
        const float y = q.pow2 ? pow2_level(x, r, q.sign, q.with_zero) : uniform_level(x, r, q.sign);
        q.y[i] = x == x ? y : x;    // NaN is not hidden
    }
}

// Gradient to one element; those to the ends of the range are added up.
__device__ float uniform_gradient(float x, float g, Range r, int sign, float *to_small, float *to_large) {
    const float lower = sign ? -r.large : 0.0f;
    float c = x > lower ? x : lower;
    c = c < r.large ? c : r.large;
    const float v = c / r.small;
    *to_small += g * (roundf(v) - v);
    if (c >= r.large) *to_large += g;    // all, where the range is one point
    else if (sign && x <= lower) *to_large -= g;
    return inside(x, lower, r.large) ? g : 0.0f;
}

__device__ float pow2_gradient(float x, float g, Range r, int sign, int with_zero, float *to_small, float *to_large) {
    const float magnitude = magnitude_of(x, sign), signed_g = sign && x < 0.0f ? -g : g;
    const int high = magnitude >= r.large;
    if (is_low(magnitude, r, with_zero)) *to_small += signed_g;
    if (high) *to_large += signed_g;
    if (high || !(magnitude >= r.small) || !inside(magnitude, 0.0f, LARGEST_POWER)) return 0.0f;
    return g * LN_2 * rounded_magnitude(magnitude) * PER_LN_2 / magnitude;    // as nnabla's functions multiply
}

// The sum over the threads of a block, for its first thread.
__device__ void add_up(float *lanes) {
    for (unsigned int half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
    }
}

extern "C" __global__ void quantize_backward(const Quantizer q) {
    __shared__ float small_lanes[BLOCK], large_lanes[BLOCK];
    const Range r = range_for(q);
    float to_small = 0.0f, to_large = 0.0f;
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < q.size; i += stride) {
        const float x = q.x[i], g = q.dy[i];
        const float dx = q.pow2 ? pow2_gradient(x, g, r, q.sign, q.with_zero, &to_small, &to_large)
                                : uniform_gradient(x, g, r, q.sign, &to_small, &to_large);
        if (q.dx) q.dx[i] = q.add_dx ? q.dx[i] + dx : dx;
    }
    small_lanes[threadIdx.x] = to_small;
    large_lanes[threadIdx.x] = to_large;
    add_up(small_lanes);
    add_up(large_lanes);
    if (threadIdx.x == 0) {
        q.sums[blockIdx.x] = small_lanes[0];
        q.sums[q.blocks + blockIdx.x] = large_lanes[0];
    }
}

// One block: adds up the parts of `quantize_backward` in a fixed order.
extern "C" __global__ void finish_backward(const Quantizer q) {
    __shared__ double lanes[2][BLOCK];
    for (int end = 0; end < 2; ++end) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < q.blocks; i += BLOCK) sum += q.sums[end * q.blocks + i];
        lanes[end][threadIdx.x] = sum;
    }
    for (unsigned int half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int end = 0; end < 2; ++end) lanes[end][threadIdx.x] += lanes[end][threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        float to_a, to_b;
        to_scalars(q, (float)lanes[0][0], (float)lanes[1][0], &to_a, &to_b);
        if (q.da) *q.da = q.add_da ? *q.da + to_a : to_a;
        if (q.db) *q.db = q.add_db ? *q.db + to_b : to_b;
    }
}

// Scalars of many quantizers -------------------------------------------------------------------------------------------

#define ROWS 56    // of a table, which is an argument: no more than 4096 bytes

struct Pair {
    float *a, *b, *da, *db;             // values and gradients
    double a_lowest, a_highest, b_lowest, b_highest;
    int is_range, unused;               // a and b are the ends of a range
};

struct Pairs {
    Pair rows[ROWS];
    double margin;                      // distance of the ends of a range
    int count, unused;
};

// NaN stays NaN, so that a training that diverges is noticed.
__device__ double at_least(double value, double lowest) { return lowest > value ? lowest : value; }
__device__ double at_most(double value, double highest) { return highest < value ? highest : value; }

// Keeps ranges in order, and all scalars within their limits.
extern "C" __global__ void clip_values(const Pairs pairs) {
    if (threadIdx.x >= pairs.count) return;
    const Pair &p = pairs.rows[threadIdx.x];
    if (p.is_range) {
        const double low = *p.a, high = *p.b;
        *p.a = (float)at_most(low, high - pairs.margin);
        *p.b = (float)at_least(high, low + pairs.margin);
    }
    *p.a = (float)at_most(at_least(*p.a, p.a_lowest), p.a_highest);
    *p.b = (float)at_most(at_least(*p.b, p.b_lowest), p.b_highest);
}

__device__ float bounded(float g, float bound) { return g < -bound ? -bound : (g > bound ? bound : g); }

// Keeps a step from changing a range by more than its smallest value.
extern "C" __global__ void clip_gradients(const Pairs pairs) {
    if (threadIdx.x >= pairs.count) return;
    const Pair &p = pairs.rows[threadIdx.x];
    if (!p.is_range) return;
    const float bound = fabsf(*p.a);
    *p.da = bounded(*p.da, bound);
    *p.db = bounded(*p.db, bound);
}

// Sizes of many tensors ------------------------------------------------------------------------------------------------

// How many bits two scalars a and b stand for; n is a alone.
enum Bits { BITS_OF_N, BITS_OF_STEP_AND_RANGE, BITS_OF_MAGNITUDES };

struct Tensor {
    const float *a, *b;
    float *da, *db;                     // gradients; 0: not wanted
    float a_lowest, a_highest, b_lowest, b_highest;
    float lowest, kbytes_per_bit;       // fewest bits
    int bits, sign, add_da, add_db;
};

struct Tensors {
    Tensor rows[ROWS];                  // from number `first` on, `count` of `total`
    float *kbytes, *y;                  // of each tensor; of all together, or the largest one
    const float *dy;
    int first, count, total, largest;
};

__device__ float log2_of(float value) { return logf(value) * PER_LN_2; }

// The bits before they are held up by the fewest, and their derivatives by a and b.
__device__ float bits_of(const Tensor &t, float *by_a, float *by_b) {
    const float a = clipped(*t.a, t.a_lowest, t.a_highest), b = clipped(*t.b, t.b_lowest, t.b_highest);
    float bits;
    *by_b = 0.0f;
    if (t.bits == BITS_OF_N) {
        *by_a = 1.0f;
        bits = roundf(a);
    } else if (t.bits == BITS_OF_STEP_AND_RANGE) {
        const float d = power_of_two(a), levels = roundf(b / d) + 1.0f;
        *by_b = PER_LN_2 / levels / d;
        *by_a = -*by_b * b / a;
        bits = ceilf(log2_of(levels) + t.sign);
    } else {
        const float exponents = log2_of(power_of_two(b) / power_of_two(a)) + 1.0f;
        *by_b = PER_LN_2 / exponents * PER_LN_2 / b;
        *by_a = -PER_LN_2 / exponents * PER_LN_2 / a;
        bits = ceilf(log2_of(exponents) + 1.0f);
    }
    if (!inside(*t.a, t.a_lowest, t.a_highest)) *by_a = 0.0f;
    if (!inside(*t.b, t.b_lowest, t.b_highest)) *by_b = 0.0f;
    return bits;
}

extern "C" __global__ void sizes_forward(const Tensors tensors) {
    if (threadIdx.x >= tensors.count) return;
    const Tensor &t = tensors.rows[threadIdx.x];
    float by_a, by_b;
    float bits = bits_of(t, &by_a, &by_b);
    if (t.bits != BITS_OF_N && !(bits > t.lowest)) bits = t.lowest;
    tensors.kbytes[tensors.first + threadIdx.x] = bits * t.kbytes_per_bit;
}

// One thread: the sum in the order of the tensors, or the largest.
extern "C" __global__ void join_sizes(const Tensors tensors) {
    float y = tensors.kbytes[0];
    for (int i = 1; i < tensors.total; ++i) {
        const float size = tensors.kbytes[i];
        y = tensors.largest ? (size > y ? size : y) : y + size;
    }
    *tensors.y = y;
}

extern "C" __global__ void sizes_backward(const Tensors tensors) {
    if (threadIdx.x >= tensors.count) return;
    const Tensor &t = tensors.rows[threadIdx.x];
    float by_a, by_b, g = *tensors.dy * t.kbytes_per_bit;
    const float bits = bits_of(t, &by_a, &by_b);
    if (t.bits != BITS_OF_N && !(bits > t.lowest)) g = 0.0f;
    if (tensors.largest) {    // of several the first
        int first = 0;
        for (int i = 1; i < tensors.total; ++i)
            if (tensors.kbytes[i] > tensors.kbytes[first]) first = i;
        if (first != tensors.first + (int)threadIdx.x) g = 0.0f;
    }
    if (t.da) *t.da = t.add_da ? *t.da + g * by_a : g * by_a;
    if (t.db) *t.db = t.add_db ? *t.db + g * by_b : g * by_b;
}
