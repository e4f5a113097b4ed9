// Loops of a training step on the CPU for which PyTorch's own are slow: a batch norm and its swish, forward and
// backward, and the weight gradient of a depthwise convolution. library.py compiles and loads them.
//
// A map is float32, channels last and dense: (rows, channels), rows = N * H * W, channels a multiple of 8. Sums run in
// float32 over a few rows and in double beyond. Each thread takes one stretch of rows, so that a sum depends on the
// number of threads and on nothing else. No option such as -ffast-math: not-a-number stays what it is.

#include <cstddef>
#include <vector>

namespace {

constexpr long kLanes = 8;           // channels that are worked on at once
constexpr long kRows = 32;           // rows that a norm sums in float32
constexpr long kCache = 128 * 1024;  // bytes of a map that a convolution's gradient comes back to

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int Ints __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef double Doubles __attribute__((vector_size(8 * kLanes), aligned(8)));

inline Vec load(const float *p) { return *reinterpret_cast<const Vec *>(p); }
inline void store(float *p, Vec v) { *reinterpret_cast<Vec *>(p) = v; }

// Adds sums in float32 to sums in double.
inline void fold(double *sum, Vec v) { *reinterpret_cast<Doubles *>(sum) += __builtin_convertvector(v, Doubles); }

// 1 / (1 + exp(-z)) to about 3e-7 of itself.
inline Vec sigmoid(Vec z) {
    Vec y = z * -1.44269504f;  // exp(-z) = 2^y = 2^n 2^f, |f| <= 1/2
    y = y < -126.0f ? Vec{} - 126.0f : y;
    y = y > 126.0f ? Vec{} + 126.0f : y;
    Vec shifted = y + 12582912.0f;  // 1.5 * 2^23, so that n is in its low bits
    Vec f = y - (shifted - 12582912.0f), f2 = f * f;
    Vec power_f = (1.0f + f * 0.693147181f) +  // Taylor: ln(2)^k / k!
                  f2 * ((0.240226507f + f * 0.0555041087f) +
                        f2 * ((0.00961812911f + f * 0.00133335581f) + f2 * 0.000154035304f));
    Vec power_n = (Vec)(((Ints)shifted << 23) + 0x3f800000);
    return 1.0f / (1.0f + power_f * power_n);
}

// The gradient at z of swish(z), whose own gradient is g.
inline Vec swish_backward(Vec g, Vec z) {
    Vec s = sigmoid(z);
    return g * (s * (1.0f + z * (1.0f - s)));
}

// Two sums for each channel: body(row, s, q) adds a row's terms to s and q, float32 for each channel.
template <typename Body>
void channel_sums(long rows, long channels, int threads, double *sum, double *other, Body body) {
    std::vector<double> parts(threads * 2 * channels);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        double *own = parts.data() + t * 2 * channels;
        std::vector<float> near(2 * channels);
        const long end = rows * (t + 1) / threads;
        for (long row = rows * t / threads; row < end;) {
            for (const long stop = row + kRows; row < end && row < stop; row++)
                body(row, near.data(), near.data() + channels);
            for (long c = 0; c < 2 * channels; c += kLanes) {
                fold(own + c, load(near.data() + c));
                store(near.data() + c, Vec{});
            }
        }
    }
    for (long c = 0; c < channels; c++)
        for (int t = 0; t < threads; t++) {
            sum[c] += parts[t * 2 * channels + c];
            other[c] += parts[(t * 2 + 1) * channels + c];
        }
}

// Adds one output row's part of one row of taps: sum[j] += sum over o of g[o] * x[o * stride + j - padding].
template <int kernel>
inline void add_taps(const float *g, const float *x, long channels, long width, long out_width, long stride,
                     long padding, Vec *sum) {
    Vec taps[kernel];
    for (int j = 0; j < kernel; j++) taps[j] = sum[j];
    for (long o = 0; o < out_width; o++) {
        Vec v = load(g + o * channels);
        long first = o * stride - padding;
        if (first >= 0 && first + kernel <= width)
            for (int j = 0; j < kernel; j++) taps[j] += v * load(x + (first + j) * channels);
        else
            for (int j = 0; j < kernel; j++)
                if (first + j >= 0 && first + j < width) taps[j] += v * load(x + (first + j) * channels);
    }
    for (int j = 0; j < kernel; j++) sum[j] = taps[j];
}

template <int kernel>
void weight_gradient(const float *g, const float *x, long images, long channels, long height, long width,
                     long out_height, long out_width, long stride, long padding, float *result, int threads) {
    constexpr int taps = kernel * kernel;
    const long block = 1 + kCache / (4 * out_width * channels);  // output rows that are summed in float32
    std::vector<double> parts(threads * taps * channels);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        double *own = parts.data() + t * taps * channels;
        const long rows = images * out_height, end = rows * (t + 1) / threads;
        for (long begin = rows * t / threads; begin < end; begin += block)
            for (long c = 0; c < channels; c += kLanes)
                for (int i = 0; i < kernel; i++) {
                    Vec sum[kernel] = {};
                    for (long row = begin; row < end && row < begin + block; row++) {
                        long h = row % out_height * stride + i - padding;
                        if (h < 0 || h >= height) continue;
                        add_taps<kernel>(g + row * out_width * channels + c,
                                         x + (row / out_height * height + h) * width * channels + c, channels, width,
                                         out_width, stride, padding, sum);
                    }
                    for (int j = 0; j < kernel; j++) fold(own + (i * kernel + j) * channels + c, sum[j]);
                }
    }
    for (long c = 0; c < channels; c++)
        for (int tap = 0; tap < taps; tap++) {
            double sum = 0;
            for (int t = 0; t < threads; t++) sum += parts[(t * taps + tap) * channels + c];
            result[c * taps + tap] = static_cast<float>(sum);
        }
}

}  // namespace

// Mean and biased variance of each channel.
extern "C" void channel_statistics(const float *x, long rows, long channels, float *mean, float *variance,
                                   int threads) {
    std::vector<double> sum(channels), square(channels), unused(channels);
    channel_sums(rows, channels, threads, sum.data(), unused.data(), [=](long row, float *s, float *) {
        for (long c = 0; c < channels; c += kLanes) store(s + c, load(s + c) + load(x + row * channels + c));
    });
    for (long c = 0; c < channels; c++) mean[c] = static_cast<float>(sum[c] / rows);
    channel_sums(rows, channels, threads, square.data(), unused.data(), [=](long row, float *s, float *) {
        for (long c = 0; c < channels; c += kLanes) {
            Vec d = load(x + row * channels + c) - load(mean + c);
            store(s + c, load(s + c) + d * d);
        }
    });
    for (long c = 0; c < channels; c++) variance[c] = static_cast<float>(square[c] / rows);
}

// out = swish(x * scale + shift).
extern "C" void norm_swish(const float *x, long rows, long channels, const float *scale, const float *shift, float *out,
                           int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++)
        for (long c = 0; c < channels; c += kLanes) {
            Vec z = load(x + row * channels + c) * load(scale + c) + load(shift + c);
            store(out + row * channels + c, z * sigmoid(z));
        }
}

// Gradients of norm_swish, whose own gradient is g, where scale and shift are made of the batch's mean and inverse
// deviation, a weight and a bias.
extern "C" void norm_swish_backward(const float *g, const float *x, long rows, long channels, const float *scale,
                                    const float *shift, const float *mean, const float *inverse, float *x_gradient,
                                    float *weight_gradient, float *bias_gradient, int threads) {
    std::vector<double> sum(channels), product(channels);
    channel_sums(rows, channels, threads, sum.data(), product.data(), [=](long row, float *s, float *q) {
        for (long c = 0; c < channels; c += kLanes) {
            long i = row * channels + c;
            Vec v = load(x + i), dz = swish_backward(load(g + i), v * load(scale + c) + load(shift + c));
            store(x_gradient + i, dz);
            store(s + c, load(s + c) + dz);
            store(q + c, load(q + c) + dz * (v - load(mean + c)));
        }
    });
    std::vector<float> offset(channels), slope(channels);
    for (long c = 0; c < channels; c++) {
        bias_gradient[c] = static_cast<float>(sum[c]);
        weight_gradient[c] = static_cast<float>(product[c] * inverse[c]);
        offset[c] = static_cast<float>(sum[c] / rows);
        slope[c] = static_cast<float>(product[c] * inverse[c] * inverse[c] / rows);
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++)
        for (long c = 0; c < channels; c += kLanes) {
            float *p = x_gradient + row * channels + c;
            Vec centred = load(x + row * channels + c) - load(mean + c);
            store(p, load(scale + c) * (load(p) - load(offset.data() + c) - centred * load(slope.data() + c)));
        }
}

// Weight gradient (channels, kernel, kernel) of a depthwise convolution: kernel 3, 5 or 7.
extern "C" void depthwise_weight_gradient(const float *g, const float *x, long images, long channels, long height,
                                          long width, long out_height, long out_width, long kernel, long stride,
                                          long padding, float *result, int threads) {
    auto run = kernel == 3 ? weight_gradient<3> : kernel == 5 ? weight_gradient<5> : weight_gradient<7>;
    run(g, x, images, channels, height, width, out_height, out_width, stride, padding, result, threads);
}
