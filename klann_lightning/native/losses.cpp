// The sums inside the losses, one pass over the samples each, and their gradients.
//
// losses.py says what they are for and holds the plain twins. Sums are taken over pieces of fixed
// length and added in order, so that no result depends on the number of threads.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

// log(x) of a normal x > 0, to 1e-7: the exponent, and 2 atanh(s) of the rest, |s| <= 0.2.
inline float log_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int32_t exponent = (bits - 0x3f2aaaab) >> 23;  // the rest lies in [2/3, 4/3)
    bits -= exponent * (1 << 23);
    std::memcpy(&x, &bits, sizeof x);
    const float s = (x - 1) / (x + 1), t = s * s;
    const float series = 1 + t * (1 / 3.f + t * (1 / 5.f + t * (1 / 7.f + t * (1 / 9.f))));
    return 0.69314718f * float(exponent) + 2 * s * series;
}
inline double log_of(double x) { return std::log(x); }

template <class S>
inline S power(const S* x, int64_t bin, S least) {
    const S p = x[2 * bin] * x[2 * bin] + x[2 * bin + 1] * x[2 * bin + 1];
    return p < least ? least : p;  // what is not a number stays so
}

// Energies of output - target and of target [rows][parts], of parts of equal length but for the last.
template <class S>
void energies(const S* output, const S* target, int64_t rows, int64_t samples, int64_t size, S* error, S* signal) {
    const int64_t parts = (samples + size - 1) / size;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t from = row * samples + part * size;
            const int64_t count = part + 1 < parts ? size : samples - part * size;
            S errors = 0, signals = 0;
#pragma omp simd reduction(+ : errors, signals)
            for (int64_t i = from; i < from + count; ++i) {
                const S difference = output[i] - target[i];
                errors += difference * difference;
                signals += target[i] * target[i];
            }
            error[row * parts + part] = errors;
            signal[row * parts + part] = signals;
        }
}

// The gradient of the error's energies in the output, from theirs.
template <class S>
void energies_gradient(const S* output, const S* target, int64_t rows, int64_t samples, int64_t size,
                       const S* given, S* gradient) {
    const int64_t parts = (samples + size - 1) / size;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t from = row * samples + part * size;
            const int64_t count = part + 1 < parts ? size : samples - part * size;
            const S scale = 2 * given[row * parts + part];
#pragma omp simd
            for (int64_t i = from; i < from + count; ++i) gradient[i] = scale * (output[i] - target[i]);
        }
}

// Windowed frames [rows][frames][length] of x [rows][samples], one every `hop` samples, the first from `before`
// samples before the first one on; ends reflected.
template <class S>
void frames(const S* x, const S* window, int64_t rows, int64_t samples, int64_t length, int64_t hop, int64_t before,
            int64_t count, int64_t threads, S* out) {
#pragma omp parallel for num_threads(threads)
    for (int64_t index = 0; index < rows * count; ++index) {
        const S* from = x + index / count * samples;
        const int64_t start = index % count * hop - before;
        S* to = out + index * length;
        if (start >= 0 && start + length <= samples) {
#pragma omp simd
            for (int64_t i = 0; i < length; ++i) to[i] = window[i] * from[start + i];
            continue;
        }
        for (int64_t i = 0; i < length; ++i) {
            int64_t at = std::llabs(start + i);
            if (at >= samples) at = 2 * (samples - 1) - at;
            to[i] = window[i] * from[at];
        }
    }
}

// The adjoint of `frames`: adds every windowed sample to where it came from; x holds zeros before.
template <class S>
void frames_gradient(const S* given, const S* window, int64_t rows, int64_t samples, int64_t length, int64_t hop,
                     int64_t before, int64_t count, int64_t threads, S* x) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; ++row) {
        S* to = x + row * samples;
        for (int64_t frame = 0; frame < count; ++frame) {
            const S* from = given + (row * count + frame) * length;
            const int64_t start = frame * hop - before;
            if (start >= 0 && start + length <= samples) {
#pragma omp simd
                for (int64_t i = 0; i < length; ++i) to[start + i] += window[i] * from[i];
                continue;
            }
            for (int64_t i = 0; i < length; ++i) {
                int64_t at = std::llabs(start + i);
                if (at >= samples) at = 2 * (samples - 1) - at;
                to[at] += window[i] * from[i];
            }
        }
    }
}

// Over complex bins, with magnitudes m = sqrt(max(|.|^2, least)): sums of (m_target - m_output)^2, of
// m_target^2, and of |log m_output - log m_target|, apart for every `size` bins: sums [pieces][3].
template <class S>
void distances(const S* output, const S* target, int64_t bins, int64_t size, S least, int64_t threads,
               double* sums) {
    const int64_t count = (bins + size - 1) / size;
#pragma omp parallel for num_threads(threads)
    for (int64_t piece = 0; piece < count; ++piece) {
        const int64_t end = (piece + 1) * size < bins ? (piece + 1) * size : bins;
        S differences = 0, targets = 0, logs = 0;
#pragma omp simd reduction(+ : differences, targets, logs)
        for (int64_t bin = piece * size; bin < end; ++bin) {
            const S p = power(output, bin, least), q = power(target, bin, least);
            const S difference = std::sqrt(q) - std::sqrt(p), logarithm = log_of(p / q);
            differences += difference * difference;
            targets += q;
            logs += logarithm < 0 ? -logarithm : logarithm;
        }
        sums[3 * piece] = differences;
        sums[3 * piece + 1] = targets;
        sums[3 * piece + 2] = logs / 2;  // the sum was of powers
    }
}

// Gradient in the output's frames [bins] of convergence / 2 * sums[0] + logarithm * sums[2], ready for an
// inverse real FFT without its 1 / length: bins that stand for two count half.
template <class S>
void distances_gradient(const S* output, const S* target, int64_t frames, int64_t width, S least, S convergence,
                        S logarithm, int64_t threads, S* gradient) {
#pragma omp parallel for num_threads(threads)
    for (int64_t frame = 0; frame < frames; ++frame) {
        const S *x = output + 2 * frame * width, *y = target + 2 * frame * width;
        S* to = gradient + 2 * frame * width;
#pragma omp simd
        for (int64_t bin = 0; bin < width; ++bin) {
            const S p = power(x, bin, least), q = power(y, bin, least), up = p > q, down = p < q;
            S scale = convergence * (1 - std::sqrt(q / p)) + logarithm * (up - down) / p;
            scale = p <= least ? 0 : scale / 2;
            to[2 * bin] = scale * x[2 * bin];
            to[2 * bin + 1] = scale * x[2 * bin + 1];
        }
        for (int64_t end : {int64_t(0), width - 1}) {
            to[2 * end] *= 2;
            to[2 * end + 1] *= 2;
        }
    }
}

}  // namespace

extern "C" {
#define KLANN_ENTRY(S, NAME)                                                                                      \
    void klann_energies_##NAME(const S* output, const S* target, int64_t rows, int64_t samples, int64_t size,     \
                               S* error, S* signal) {                                                             \
        energies<S>(output, target, rows, samples, size, error, signal);                                          \
    }                                                                                                             \
    void klann_energies_gradient_##NAME(const S* output, const S* target, int64_t rows, int64_t samples,          \
                                        int64_t size, const S* given, S* gradient) {                              \
        energies_gradient<S>(output, target, rows, samples, size, given, gradient);                               \
    }                                                                                                             \
    void klann_frames_##NAME(const S* x, const S* window, int64_t rows, int64_t samples, int64_t length,          \
                             int64_t hop, int64_t before, int64_t count, int64_t threads, S* out) {               \
        frames<S>(x, window, rows, samples, length, hop, before, count, threads, out);                            \
    }                                                                                                             \
    void klann_frames_gradient_##NAME(const S* given, const S* window, int64_t rows, int64_t samples,             \
                                      int64_t length, int64_t hop, int64_t before, int64_t count,                 \
                                      int64_t threads, S* x) {                                                    \
        frames_gradient<S>(given, window, rows, samples, length, hop, before, count, threads, x);                 \
    }                                                                                                             \
    void klann_distances_##NAME(const S* output, const S* target, int64_t bins, int64_t size, double least,       \
                                int64_t threads, double* sums) {                                                  \
        distances<S>(output, target, bins, size, S(least), threads, sums);                                        \
    }                                                                                                             \
    void klann_distances_gradient_##NAME(const S* output, const S* target, int64_t frames, int64_t width,         \
                                         double least, double convergence, double logarithm, int64_t threads,     \
                                         S* gradient) {                                                           \
        distances_gradient<S>(output, target, frames, width, S(least), S(convergence), S(logarithm), threads,     \
                              gradient);                                                                          \
    }
KLANN_ENTRY(float, float32)
KLANN_ENTRY(double, float64)
}
