// klann.hpp: plays a Koopman-linearised audio neural network (Huhtala, Juvela, Schlecht, IEEE SPL 31, 2024).
//
//   klann::Document document;                       // or the model of a header that `export --format cpp` wrote
//   std::string error = document.parse(json_text);  // empty if all is well
//   klann::Processor<float> player(document.model(), channels);
//   player.process(in, out, frames);                // any number of frames; late by latency(): 0 without oversampling
//
// C++17, nothing else. Compiled for any x86-64, it still uses the widest vectors that the processor has.
// `process`, `tick` and `reset` neither allocate nor lock nor throw. Blocks of any size give the same samples to
// the bit. What is not a number in the input counts as silence. The file must be called klann.hpp.
#if defined(KLANN_LEVEL)

// ---- What is compiled for each kind of processor: this file includes itself for it ----

namespace klann::detail::KLANN_LEVEL {

constexpr int BYTES = KLANN_BYTES, TILE = BYTES == 64 ? 4 : 2;  // of a register; vectors of time held in some

#if defined(KLANN_VECTORS)
template <class S>
struct PackOf {
    typedef S Type __attribute__((vector_size(BYTES), may_alias));
};
typedef std::int32_t Integers __attribute__((vector_size(BYTES), may_alias));
#else
template <class S>
struct alignas(BYTES) Plain {
    static constexpr int COUNT = BYTES / static_cast<int>(sizeof(S));
    S lane[COUNT];
    S& operator[](int i) { return lane[i]; }
    S operator[](int i) const { return lane[i]; }
    Plain& operator+=(const Plain& y) { return *this = *this + y; }
#define KLANN_OPERATOR(sign)                                                   \
    friend Plain operator sign(const Plain& x, const Plain& y) {               \
        Plain z;                                                               \
        for (int i = 0; i < COUNT; ++i) z.lane[i] = x.lane[i] sign y.lane[i];  \
        return z;                                                              \
    }                                                                          \
    friend Plain operator sign(const Plain& x, S y) {                          \
        Plain z;                                                               \
        for (int i = 0; i < COUNT; ++i) z.lane[i] = x.lane[i] sign y;          \
        return z;                                                              \
    }
    KLANN_OPERATOR(+) KLANN_OPERATOR(-) KLANN_OPERATOR(*) KLANN_OPERATOR(/)
#undef KLANN_OPERATOR
};
template <class S>
struct PackOf {
    typedef Plain<S> Type;
};
#endif
template <class S>
using Pack = typename PackOf<S>::Type;
template <class S>
constexpr int LANES = BYTES / static_cast<int>(sizeof(S));

// x between -limit and limit, and 1/x to 2e-7 of it: with the processor's own instructions where it has some.
#if KLANN_BYTES == 64
KLANN_INLINE Pack<float> within(Pack<float> x, float limit) {
    return _mm512_maskz_max_ps(0xFFFF, _mm512_maskz_min_ps(0xFFFF, x, _mm512_set1_ps(limit)), _mm512_set1_ps(-limit));
}
KLANN_INLINE Pack<float> estimate(Pack<float> x) { return _mm512_maskz_rcp14_ps(0xFFFF, x); }
#elif KLANN_BYTES == 32
KLANN_INLINE Pack<float> within(Pack<float> x, float limit) {
    return _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(limit)), _mm256_set1_ps(-limit));
}
KLANN_INLINE Pack<float> estimate(Pack<float> x) { return _mm256_rcp_ps(x); }
#elif defined(KLANN_VECTORS) && defined(__SSE2__)
KLANN_INLINE Pack<float> within(Pack<float> x, float limit) {
    return _mm_max_ps(_mm_min_ps(x, _mm_set1_ps(limit)), _mm_set1_ps(-limit));
}
KLANN_INLINE Pack<float> estimate(Pack<float> x) { return _mm_rcp_ps(x); }
#elif defined(KLANN_VECTORS)
KLANN_INLINE Pack<float> within(Pack<float> x, float limit) {
    x = x > limit ? Pack<float>{} + limit : x;
    return x < -limit ? Pack<float>{} - limit : x;
}
#endif

#if defined(KLANN_VECTORS) && defined(__SSE2__)
KLANN_INLINE Pack<float> reciprocal(Pack<float> x) {  // one step of Newton's
    const Pack<float> y = estimate(x);
    return y * (2.0F - x * y);
}
#else
KLANN_INLINE Pack<float> reciprocal(Pack<float> x) { return (Pack<float>{} + 1.0F) / x; }
#endif

// 1 + exp(-x) to 2e-7 of it, for float: 2^n 2^r with |r| <= 1/2, and 2^r by a minimax polynomial, to 1e-7.
KLANN_INLINE void one_and_exp_minus(Pack<float>& x) {
#if defined(KLANN_VECTORS)
    const Pack<float> t = within(x, 40.0F) * -1.44269504F;
    const Pack<float> shifted = t + 12582912.0F;  // 1.5 2^23: the integer part ends in the lowest bits
    const Pack<float> r = t - (shifted - 12582912.0F);
    Pack<float> p = r * 1.32647261e-3F + 9.67151299e-3F;
    p = p * r + 5.55073358e-2F;
    p = p * r + 2.40222424e-1F;
    p = p * r + 6.93147004e-1F;
    p = p * r + 1.0F;
    x = reinterpret_cast<Pack<float>>(reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 23)) + 1.0F;
#else
    for (int i = 0; i < LANES<float>; ++i) x[i] = 1.0F + std::exp(-x[i]);
#endif
}

KLANN_INLINE void one_and_exp_minus(Pack<double>& x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = 1.0 + std::exp(-x[i]);
}

// A value times the sigmoid of its gate.
KLANN_INLINE void gate(Pack<float>& value, Pack<float> by) {
    one_and_exp_minus(by);
    value = value * reciprocal(by);
}

KLANN_INLINE void gate(Pack<double>& value, Pack<double> by) {
    one_and_exp_minus(by);
    value = value / by;
}

// Where a register has few lanes, a weight lies in memory as often as it has: to spread it would take longer.
template <class S, int BYTES_OF>
struct WeightOf {
    typedef S Type;
};
template <class S>
struct WeightOf<S, 16> {
    typedef Pack<S> Type;
};

// All operations of a model over up to CHUNK samples of one channel.
template <class S>
class Kernel final : public Engine<S> {
    typedef KLANN_LEVEL::Pack<S> Pack;
    static constexpr int W = LANES<S>, N = CHUNK / W;
    typedef KLANN_LEVEL::Pack<double> Doubles;
    static constexpr int D = LANES<double>, ABREAST = 4 * D < 16 ? 4 * D : 16;  // filters at once
    typedef typename WeightOf<S, BYTES>::Type Weight;

public:
    explicit Kernel(const Model& model)
        : Engine<S>(model),
          weight_row(sizeof(Weight) * static_cast<std::size_t>(model.weight_count)),
          value_row(sizeof(Pack) * N * static_cast<std::size_t>(model.planes)) {
        for (int o = 0; o < model.operation_count; ++o) {
            const Operation& op = model.operations[o];
            const int rows = op.kind == Kind::filter ? 0 : op.kind == Kind::gated ? 2 * op.width : op.width;
            for (int i = op.weight; i < op.weight + rows * (op.fan_in + 1); ++i)
                weights()[i] = Weight{} + static_cast<S>(weight_of(model, o, i));
        }
    }

    void chunk(const S* in, S* out, int count, double* state) noexcept override {
        S* first = plane(0);
        const int vectors = (count + W - 1) / W, whole = (vectors + TILE - 1) / TILE * TILE;
        for (int t = 0; t < count; ++t) first[t] = finite(in[t]) * this->input_scale;
        for (int t = count; t < whole * W; ++t) first[t] = 0;
        const Operation* const end = this->operations.data() + this->operations.size();
        for (const Operation* op = this->operations.data(); op < end; ++op) {
            if (op->kind == Kind::filter) {
                op += filter_row(op, end, count, state) - 1;
                continue;
            }
            const bool gates = op->kind == Kind::gated;
            int unit = 0;
            if (gates) {
                for (; unit + 2 <= op->width; unit += 2) gated<2>(*op, unit, whole);
                if (unit < op->width) gated<1>(*op, unit, whole);
            } else {
                for (; unit + 4 <= op->width; unit += 4) linear<4>(*op, unit, whole);
                for (; unit < op->width; ++unit) linear<1>(*op, unit, whole);
            }
        }
        const S* last = plane(this->last_plane);
        for (int t = 0; t < count; ++t) out[t] = last[t] * this->output_scale;
    }

    void convolve(const S* line, const S* taps, S* out, int count) const noexcept override {
        for (int t = 0; t < count; t += TILE * W) {
            Pack sum[TILE] = {};
            for (int k = 0; k < TAPS; ++k) {
                KLANN_UNROLL
                for (int v = 0; v < TILE; ++v) {
                    Pack x;
                    std::memcpy(&x, line + t + v * W + k, sizeof x);
                    sum[v] += x * taps[k];
                }
            }
            std::memcpy(out + t, sum, sizeof sum);
        }
    }

private:
    S* plane(int index) noexcept { return reinterpret_cast<S*>(values() + static_cast<std::ptrdiff_t>(index) * N); }

    // R rows of a layer over TILE vectors of time.
    template <int R>
    KLANN_INLINE void affine(const Operation& op, const int (&row)[R], int at, Pack (&sum)[R][TILE]) const noexcept {
        const Weight* weight[R];
        KLANN_UNROLL
        for (int r = 0; r < R; ++r) {
            weight[r] = weights() + op.weight + static_cast<std::ptrdiff_t>(row[r]) * op.fan_in;
            KLANN_UNROLL
            for (int v = 0; v < TILE; ++v) sum[r][v] = Pack{} + weights()[op.bias + row[r]];
        }
        const std::int32_t* from = this->inputs.data() + op.inputs;
        for (int i = 0; i < op.fan_in; ++i) {
            const Pack* x = values() + static_cast<std::ptrdiff_t>(from[i]) * N + at;
            KLANN_UNROLL
            for (int r = 0; r < R; ++r) {
                KLANN_UNROLL
                for (int v = 0; v < TILE; ++v) sum[r][v] += x[v] * weight[r][i];
            }
        }
    }

    template <int U>
    void gated(const Operation& op, int unit, int vectors) noexcept {
        int row[2 * U];
        for (int u = 0; u < U; ++u) {
            row[u] = unit + u;
            row[U + u] = unit + u + op.width;
        }
        Pack* to = values() + static_cast<std::ptrdiff_t>(op.output + unit) * N;
        for (int at = 0; at < vectors; at += TILE) {
            Pack sum[2 * U][TILE];
            affine<2 * U>(op, row, at, sum);
            KLANN_UNROLL
            for (int u = 0; u < U; ++u) {
                KLANN_UNROLL
                for (int v = 0; v < TILE; ++v) {
                    gate(sum[u][v], sum[U + u][v]);
                    to[u * N + at + v] = sum[u][v];
                }
            }
        }
    }

    template <int R>
    void linear(const Operation& op, int unit, int vectors) noexcept {
        int row[R];
        for (int r = 0; r < R; ++r) row[r] = unit + r;
        Pack* to = values() + static_cast<std::ptrdiff_t>(op.output + unit) * N;
        for (int at = 0; at < vectors; at += TILE) {
            Pack sum[R][TILE];
            affine<R>(op, row, at, sum);
            KLANN_UNROLL
            for (int r = 0; r < R; ++r) {
                KLANN_UNROLL
                for (int v = 0; v < TILE; ++v) to[r * N + at + v] = sum[r][v];
            }
        }
    }

    // Filters that read none of each other, ABREAST of them at most, each in a lane of its own: how many.
    int filter_row(const Operation* op, const Operation* end, int count, double* state) noexcept {
        int row = 1;
        while (row < ABREAST && op + row < end && op[row].kind == Kind::filter && aside(op, row)) ++row;
        if (row == 1) filter_alone(op, count, state);
        else if (row <= D) filter<1>(op, row, count, state);
        else if (row <= 2 * D) filter<2>(op, row, count, state);
        else if (row <= 3 * D) filter<3>(op, row, count, state);
        else filter<4>(op, row, count, state);
        return row;
    }

    // Whether a filter reads none of those that stand before it.
    bool aside(const Operation* op, int row) const noexcept {
        for (int i = 0; i < row; ++i)
            if (this->inputs[static_cast<std::size_t>(op[row].inputs)] == op[i].output) return false;
        return true;
    }

    // One filter needs no lanes, nor the way into them and back.
    KLANN_APART void filter_alone(const Operation* op, int count, double* state) noexcept {
        const S* x = plane(this->inputs[static_cast<std::size_t>(op->inputs)]);
        S* y = plane(op->output);
        const Space m = this->spaces[static_cast<std::size_t>(op->weight)];
        double s = state[2 * op->weight], z = state[2 * op->weight + 1];
        for (int t = 0; t < count; ++t) {
            const double in = static_cast<double>(x[t]);
            y[t] = static_cast<S>(audible(m.c[0] * s + m.c[1] * z + m.d * in));
            const double next = m.a[0] * s + (m.a[1] * z + m.b[0] * in);
            z = m.a[3] * z + (m.a[2] * s + m.b[1] * in);
            s = next;
        }
        state[2 * op->weight] = lasting(s);
        state[2 * op->weight + 1] = lasting(z);
        for (int t = count; t < CHUNK; ++t) y[t] = 0;  // read with the rest of a vector
    }

    template <int V>
    KLANN_APART void filter(const Operation* op, int row, int count, double* state) noexcept {
        constexpr int L = V * D;
        Doubles coefficients[9][V] = {}, s[V] = {}, z[V] = {};
        alignas(BYTES) double sound[CHUNK * L];
        for (int f = 0; f < row; ++f) {
            const Space& m = this->spaces[static_cast<std::size_t>(op[f].weight)];
            const double told[9] = {m.a[0], m.a[1], m.a[2], m.a[3], m.b[0], m.b[1], m.c[0], m.c[1], m.d};
            for (int i = 0; i < 9; ++i) coefficients[i][f / D][f % D] = told[i];
            s[f / D][f % D] = state[2 * op[f].weight];
            z[f / D][f % D] = state[2 * op[f].weight + 1];
            const S* x = plane(this->inputs[static_cast<std::size_t>(op[f].inputs)]);
            for (int t = 0; t < count; ++t) sound[t * L + f] = static_cast<double>(x[t]);
        }
        for (int f = row; f < L; ++f)
            for (int t = 0; t < count; ++t) sound[t * L + f] = 0;
        for (int t = 0; t < count; ++t) {
            Doubles* at = reinterpret_cast<Doubles*>(sound + t * L);
            KLANN_UNROLL
            for (int v = 0; v < V; ++v) {
                const Doubles x = at[v];
                at[v] = coefficients[6][v] * s[v] + coefficients[7][v] * z[v] + coefficients[8][v] * x;
                const Doubles next = coefficients[0][v] * s[v] + (coefficients[1][v] * z[v] + coefficients[4][v] * x);
                z[v] = coefficients[3][v] * z[v] + (coefficients[2][v] * s[v] + coefficients[5][v] * x);
                s[v] = next;
            }
        }
        for (int f = 0; f < row; ++f) {
            state[2 * op[f].weight] = lasting(s[f / D][f % D]);
            state[2 * op[f].weight + 1] = lasting(z[f / D][f % D]);
            S* y = plane(op[f].output);
            for (int t = 0; t < count; ++t) y[t] = static_cast<S>(audible(sound[t * L + f]));
            for (int t = count; t < CHUNK; ++t) y[t] = 0;  // read with the rest of a vector
        }
    }

    Weight* weights() const noexcept { return static_cast<Weight*>(weight_row.data()); }
    Pack* values() const noexcept { return static_cast<Pack*>(value_row.data()); }

    Row weight_row, value_row;
};

}  // namespace klann::detail::KLANN_LEVEL

#elif !defined(KLANN_HPP)
#define KLANN_HPP

#include <clocale>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define KLANN_VECTORS
#define KLANN_INLINE inline __attribute__((always_inline))
#define KLANN_APART __attribute__((noinline))
#if defined(__clang__)
#define KLANN_UNROLL _Pragma("unroll")
#else
#define KLANN_UNROLL _Pragma("GCC unroll 16")
#endif
#else
#define KLANN_INLINE inline
#define KLANN_APART
#define KLANN_UNROLL
#endif

namespace klann {

constexpr int VERSION = 1;  // of the JSON that is read

// ---- What a model is ----

enum class Kind : std::int32_t { gated, linear, filter };

// One operation on planes of samples: plane 0 is the input, the last one written is the output. A gated layer
// is a linear one of twice the width, whose first half is multiplied by the sigmoid of the second.
struct Operation {
    Kind kind;
    std::int32_t fan_in;  // planes that are read
    std::int32_t width;   // planes that are written, from `output` on
    std::int32_t output;
    std::int32_t inputs;  // the first of its entries in Model::inputs
    std::int32_t weight;  // offset of [rows][fan_in] in Model::weights; of a filter, its index
    std::int32_t bias;    // offset of [rows], which follow the weights
};

// A trapezoidal state-variable filter, by its analogue prototype.
struct Filter {
    double cutoff_hz, damping;  // 1/sqrt(2) is Butterworth
    double low, band, high;     // the outputs' weights
    double first, second;       // its states before the first sample
};

enum class Coding : std::int32_t { floats, halves, shorts };  // 32 bit; 16 bit, floating or times a scale

// All of a model, in arrays of somebody else.
struct Model {
    const Operation* operations;
    const std::int32_t* inputs;
    const void* weights;  // float, or std::uint16_t with the bits of a half, or std::int16_t
    Coding coding;
    const float* scales;  // of each operation, where weights are shorts
    const Filter* filters;
    std::int32_t operation_count, input_count, weight_count, filter_count, planes;
    double sample_rate, input_level, output_level;
};

namespace detail {

constexpr int CHUNK = 64;  // samples that are worked on at a time

constexpr int REACH = 32, TAPS = 2 * REACH;  // of the filters of oversampling, in samples
constexpr double BETA = 9;                   // of their Kaiser window: 90 dB from 1.09 Nyquist on

// While one is alive, numbers too small to be normal count as zero: they would cost a hundred times as much.
class NoDenormals {
#if defined(__SSE2__) || defined(_M_X64)
#define KLANN_FLUSHES
public:
    NoDenormals() noexcept : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040U); }
    ~NoDenormals() { _mm_setcsr(before); }

private:
    unsigned before;
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define KLANN_FLUSHES
public:
    NoDenormals() noexcept {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before | (1ULL << 24)));
    }
    ~NoDenormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }

private:
    std::uint64_t before;
#else
public:
    NoDenormals() noexcept {}
    ~NoDenormals() {}
#endif
public:
    NoDenormals(const NoDenormals&) = delete;
    NoDenormals& operator=(const NoDenormals&) = delete;
};

// Where the processor cannot do that, samples of -600 dB do, and states that no sample can be made of any more.
template <class T>
constexpr T audible(T x) noexcept {
#if defined(KLANN_FLUSHES)
    return x;
#else
    return x > static_cast<T>(1e-30) || x < static_cast<T>(-1e-30) ? x : 0;
#endif
}

constexpr double lasting(double state) noexcept {
#if defined(KLANN_FLUSHES)
    return state;
#else
    return state > 1e-200 || state < -1e-200 ? state : 0;
#endif
}

// A filter as a state space: y = c s + d x, then s <- a s + b x.
struct Space {
    double a[4], b[2], c[2], d;
};

inline Space space_of(const Filter& f, double sample_rate) {
    const double most = 0.5 - 1e-6, part = f.cutoff_hz / sample_rate;
    const double g = std::tan(3.14159265358979323846 * (part < most ? part : most)), r = f.damping;
    const double e = 1 / (1 + 2 * r * g + g * g), k = f.band - 2 * r * f.high + g * (f.low - f.high);
    return {{2 * e - 1, -2 * g * e, 2 * g * e, (1 + 2 * r * g - g * g) * e},
            {2 * g * e, 2 * g * g * e},
            {k * e, f.low - f.high - k * g * e},
            f.high + k * g * e};
}

inline float of_half(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                     : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    return bits & 0x8000 ? -size : size;  // none is infinite
}

inline float weight_of(const Model& model, int operation, int index) {
    switch (model.coding) {
        case Coding::halves: return of_half(static_cast<const std::uint16_t*>(model.weights)[index]);
        case Coding::shorts:
            return static_cast<float>(static_cast<const std::int16_t*>(model.weights)[index]) * model.scales[operation];
        default: return static_cast<const float*>(model.weights)[index];
    }
}

// What the sample `part` of a distance after another takes of those from REACH - 1 before it to REACH after.
template <class S>
void interpolation(double part, S* taps) {
    double sum = 0, exact[TAPS];
    for (int k = 0; k < TAPS; ++k) {
        const double place = REACH - 1 - k + part, share = place / REACH;
        double bessel = 1, term = 1;  // I0 of the Kaiser window, by its series
        for (int i = 1; i < 60; ++i) bessel += term *= BETA * BETA * (1 - share * share) / (4.0 * i * i);
        exact[k] = std::sin(3.14159265358979323846 * place) / place * bessel;
        sum += exact[k];
    }
    for (int k = 0; k < TAPS; ++k) taps[k] = static_cast<S>(exact[k] / sum);
}

// Samples of one phase: the last TAPS, then those of the chunk that is played.
template <class S>
struct Line {
    S past[TAPS + CHUNK];
    S* now() noexcept { return past + TAPS; }
    void move(int count) noexcept { std::memmove(past, past + count, TAPS * sizeof(S)); }
};

// Beyond a million times full scale nothing is sound, nor is what is not a number.
template <class S>
S finite(S x) noexcept {
    const S most = static_cast<S>(1e6);
    return x > most ? most : x < -most ? -most : x == x ? audible(x) : 0;
}

// Memory that begins where the widest vectors may.
class Row {
public:
    explicit Row(std::size_t bytes) : store(bytes + 64) {
        void* begin = store.data();
        std::size_t room = store.size();
        aligned = std::align(64, bytes, begin, room);
    }
    void* data() const noexcept { return aligned; }

private:
    std::vector<unsigned char> store;
    void* aligned;
};

// What plays a chunk of one channel, whatever it is compiled for.
template <class S>
class Engine {
public:
    explicit Engine(const Model& model)
        : spaces(static_cast<std::size_t>(model.filter_count)),
          operations(model.operations, model.operations + model.operation_count),
          inputs(model.inputs, model.inputs + model.input_count),
          input_scale(static_cast<S>(1 / model.input_level)),
          output_scale(static_cast<S>(model.output_level)),
          last_plane(model.planes - 1) {}
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    // Up to CHUNK samples; `state` goes from their start to their end.
    virtual void chunk(const S* in, S* out, int count, double* state) noexcept = 0;

    // out[t] is the sum of taps[k] line[t + k], for up to CHUNK samples; some more after these are overwritten.
    virtual void convolve(const S* line, const S* taps, S* out, int count) const noexcept = 0;

    std::vector<Space> spaces;  // of the filters

protected:
    std::vector<Operation> operations;
    std::vector<std::int32_t> inputs;
    S input_scale, output_scale;
    int last_plane;
};

}  // namespace detail

}  // namespace klann

// ---- The same for every kind of processor that may be met ----

#if defined(__AVX512F__)
#define KLANN_BYTES 64
#elif defined(__AVX__)
#define KLANN_BYTES 32
#else
#define KLANN_BYTES 16
#endif
#define KLANN_LEVEL own
#include "klann.hpp"
#undef KLANN_LEVEL
#undef KLANN_BYTES

// Compiled for less than this processor may have, kernels for more are there too; KLANN_OWN_ONLY leaves them out.
#if defined(KLANN_VECTORS) && defined(__x86_64__) && !defined(__AVX512F__) && !defined(KLANN_OWN_ONLY)
#define KLANN_CHOICE
#define KLANN_SAY(words) _Pragma(#words)
#if defined(__clang__)
#define KLANN_FOR(features) KLANN_SAY(clang attribute push(__attribute__((target(features))), apply_to = function))
#define KLANN_FOR_ALL KLANN_SAY(clang attribute pop)
#else
#define KLANN_FOR(features) KLANN_SAY(GCC push_options) KLANN_SAY(GCC target(features))
#define KLANN_FOR_ALL KLANN_SAY(GCC pop_options)
#endif
#define KLANN_LEVEL avx2
#define KLANN_BYTES 32
KLANN_FOR("avx2,fma")
#include "klann.hpp"
KLANN_FOR_ALL
#undef KLANN_LEVEL
#undef KLANN_BYTES
#define KLANN_LEVEL avx512
#define KLANN_BYTES 64
KLANN_FOR("avx512f,avx2,fma")
#include "klann.hpp"
KLANN_FOR_ALL
#undef KLANN_LEVEL
#undef KLANN_BYTES
#endif

namespace klann {

namespace detail {

template <class S>
std::unique_ptr<Engine<S>> engine_for(const Model& model) {
#if defined(KLANN_CHOICE)
    if (__builtin_cpu_supports("avx512f")) return std::make_unique<avx512::Kernel<S>>(model);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return std::make_unique<avx2::Kernel<S>>(model);
#endif
    return std::make_unique<own::Kernel<S>>(model);
}

}  // namespace detail

// ---- The player ----

// Plays one model on several channels alike. S: float or double; the filters' states are double in both.
//
// With an oversampling of 2 or 4, as many copies of the model play a phase each of the oversampled sound: less
// of what the layers make above Nyquist folds back, filters pass what they were trained to, and it is late.
template <class S>
class Processor {
    static_assert(sizeof(S) == 4 || sizeof(S) == 8, "float or double");

public:
    // Allocates all that is needed. `sample_rate` in Hz; 0 for the model's own. `oversampling` is 1, 2 or 4: of
    // that, as of a number of channels below 1, the caller has to take care.
    explicit Processor(const Model& model, int channels = 1, double sample_rate = 0, int oversampling = 1)
        : engine(detail::engine_for<S>(model)),
          filters(model.filters, model.filters + model.filter_count),
          states(filters.size() * 2 * static_cast<std::size_t>(channels * oversampling)),
          lines(oversampling > 1 ? static_cast<std::size_t>(channels * (oversampling + 1)) : 0),
          taps(static_cast<std::size_t>(2 * (oversampling - 1) * detail::TAPS)),
          model_rate(model.sample_rate),
          channel_count(channels),
          factor(oversampling) {
        for (int p = 1; p < factor; ++p) {
            S *up = taps_of(p, 0), *down = taps_of(p, 1);
            detail::interpolation(static_cast<double>(p) / factor, up);
            for (int k = 0; k < detail::TAPS; ++k) down[k] = up[detail::TAPS - 1 - k];
        }
        set_sample_rate(sample_rate);
        reset();
    }

    // The filters for another rate, from their analogue prototypes by the bilinear transform: exact at 0 Hz and
    // at their cutoffs, and the nearer to Nyquist of either rate, the less so. States stay. 0: the model's own.
    void set_sample_rate(double sample_rate) noexcept {
        const double rate = sample_rate > 0 ? sample_rate : model_rate;
        for (std::size_t f = 0; f < filters.size(); ++f) engine->spaces[f] = detail::space_of(filters[f], rate);
    }

    // As before the first sample.
    void reset() noexcept {
        double* state = states.data();
        for (int copy = 0; copy < channel_count * factor; ++copy)
            for (const Filter& f : filters) {
                *state++ = f.first;
                *state++ = f.second;
            }
        for (detail::Line<S>& line : lines) line = {};
    }

    // `frames` samples of every channel; `in` and `out` may be the same.
    void process(const S* const* in, S* const* out, std::size_t frames) noexcept {
        const detail::NoDenormals flushed;
        for (int channel = 0; channel < channel_count; ++channel) play(in[channel], out[channel], frames, channel);
    }

    // The same where there is one channel.
    void process(const S* in, S* out, std::size_t frames) noexcept { process(&in, &out, frames); }

    // One sample of one channel. A block costs far less than its samples do one by one.
    S tick(S x, int channel = 0) noexcept {
        const detail::NoDenormals flushed;
        S y = 0;
        play(&x, &y, 1, channel);
        return y;
    }

    int channels() const noexcept { return channel_count; }
    int latency() const noexcept { return factor > 1 ? detail::TAPS : 0; }  // samples

private:
    void play(const S* in, S* out, std::size_t frames, int channel) noexcept {
        double* state = states.data() + static_cast<std::size_t>(channel * factor) * filters.size() * 2;
        while (frames) {
            const int count = static_cast<int>(frames < detail::CHUNK ? frames : detail::CHUNK);
            if (factor == 1) engine->chunk(in, out, count, state);
            else phases(in, out, count, state, lines.data() + channel * (factor + 1));
            in += count;
            out += count;
            frames -= static_cast<std::size_t>(count);
        }
    }

    // Up, through a copy of the model for every phase, and down. The first line is the input's, then one a phase.
    void phases(const S* in, S* out, int count, double* state, detail::Line<S>* line) noexcept {
        detail::Line<S>& input = *line++;
        for (int t = 0; t < count; ++t) input.now()[t] = detail::finite(in[t]);
        S part[detail::CHUNK], sum[detail::CHUNK] = {};
        for (int p = 0; p < factor; ++p, ++line, state += 2 * filters.size()) {
            if (p > 0) engine->convolve(input.past + 1, taps_of(p, 0), part, count);
            engine->chunk(p > 0 ? part : input.past + detail::REACH, line->now(), count, state);
            if (p > 0) engine->convolve(line->past, taps_of(p, 1), part, count);
            const S* late = p > 0 ? part : line->past + detail::REACH;
            for (int t = 0; t < count; ++t) sum[t] += late[t];
            line->move(count);
        }
        input.move(count);
        for (int t = 0; t < count; ++t) out[t] = sum[t] / static_cast<S>(factor);
    }

    // Of phase `p`, up or down.
    S* taps_of(int p, int down) noexcept { return taps.data() + (2 * (p - 1) + down) * detail::TAPS; }

    std::unique_ptr<detail::Engine<S>> engine;
    std::vector<Filter> filters;
    std::vector<double> states;
    std::vector<detail::Line<S>> lines;
    std::vector<S> taps;
    double model_rate;
    int channel_count, factor;
};

// ---- The document: a model as JSON ----

namespace detail {

// A JSON value; numbers as double.
struct Json {
    enum class Type { null, boolean, number, text, list, object };
    Type type = Type::null;
    double number = 0;
    std::string text;
    std::vector<Json> items;         // of a list, or an object's values
    std::vector<std::string> names;  // of an object's values

    const Json* find(std::string_view name) const {
        for (std::size_t i = 0; i < names.size(); ++i)
            if (names[i] == name) return &items[i];
        return nullptr;
    }
};

// Reads JSON (RFC 8259); escapes beyond ASCII become a question mark, as no name that counts has any.
class Reader {
public:
    explicit Reader(std::string_view text) : rest(text), whole(text.size()) {}

    // An error in words, or nothing.
    std::string read(Json& value) {
        if (!any(value, 0)) return failure();
        skip();
        return rest.empty() ? std::string() : failure();
    }

private:
    static constexpr int DEEPEST = 16;

    std::string failure() const {
        return "not JSON, or cut off: character " + std::to_string(whole - rest.size()) + " is not what must follow";
    }

    void skip() {
        while (!rest.empty() && (rest[0] == ' ' || rest[0] == '\n' || rest[0] == '\r' || rest[0] == '\t'))
            rest.remove_prefix(1);
    }

    bool take(char c) {
        skip();
        if (rest.empty() || rest[0] != c) return false;
        rest.remove_prefix(1);
        return true;
    }

    bool word(std::string_view expected) {
        if (rest.substr(0, expected.size()) != expected) return false;
        rest.remove_prefix(expected.size());
        return true;
    }

    bool any(Json& value, int depth) {
        skip();
        if (rest.empty() || depth > DEEPEST) return false;
        switch (rest[0]) {
            case '{': return object(value, depth);
            case '[': return list(value, depth);
            case '"': value.type = Json::Type::text; return string(value.text);
            case 't': value.type = Json::Type::boolean; value.number = 1; return word("true");
            case 'f': value.type = Json::Type::boolean; return word("false");
            case 'n': return word("null");
            default: value.type = Json::Type::number; return decimal(value.number);
        }
    }

    bool object(Json& value, int depth) {
        value.type = Json::Type::object;
        take('{');
        if (take('}')) return true;
        do {
            skip();
            value.names.emplace_back();
            value.items.emplace_back();
            if (rest.empty() || rest[0] != '"' || !string(value.names.back())) return false;
            if (!take(':') || !any(value.items.back(), depth + 1)) return false;
        } while (take(','));
        return take('}');
    }

    bool list(Json& value, int depth) {
        value.type = Json::Type::list;
        take('[');
        if (take(']')) return true;
        do {
            value.items.emplace_back();
            if (!any(value.items.back(), depth + 1)) return false;
        } while (take(','));
        return take(']');
    }

    bool string(std::string& text) {
        rest.remove_prefix(1);
        while (!rest.empty() && rest[0] != '"') {
            char c = rest[0];
            if (static_cast<unsigned char>(c) < 0x20) return false;
            rest.remove_prefix(1);
            if (c == '\\') {
                if (rest.empty()) return false;
                c = rest[0];
                rest.remove_prefix(1);
                if (c == 'u') {
                    if (rest.size() < 4) return false;
                    rest.remove_prefix(4);
                    c = '?';
                } else if (c == 'n' || c == 't' || c == 'r' || c == 'b' || c == 'f') {
                    c = ' ';
                } else if (c != '"' && c != '\\' && c != '/') {
                    return false;
                }
            }
            text.push_back(c);
        }
        if (rest.empty()) return false;
        rest.remove_prefix(1);
        return true;
    }

    bool decimal(double& number) {
        std::size_t length = 0;
        while (length < rest.size() && std::strchr("+-.eE0123456789", rest[length]) && rest[length]) ++length;
        if (length == 0 || length > 60) return false;
        std::string digits(rest.substr(0, length));
        const std::size_t point = digits.find('.');
        if (point != std::string::npos) digits[point] = *std::localeconv()->decimal_point;  // as strtod has it
        char* end = nullptr;
        number = std::strtod(digits.c_str(), &end);
        rest.remove_prefix(length);
        return end == digits.c_str() + digits.size() && std::isfinite(number);
    }

    std::string_view rest;
    std::size_t whole;
};

}  // namespace detail

// A model that was read from JSON, with what it made of a short input where it was exported.
class Document {
public:
    std::vector<double> snapshot_input, snapshot_output;

    // What is wrong, in words; nothing if all is well. Only then is there a model.
    std::string parse(std::string_view text) {
        *this = Document();
        detail::Json root;
        std::string error = detail::Reader(text).read(root);
        if (error.empty()) error = take(root);
        if (!error.empty()) *this = Document();
        return error;
    }

    // Valid as long as this document, and until it parses another text.
    Model model() const noexcept {
        return {operations.data(), inputs.data(), weights.data(), Coding::floats, nullptr, filters.data(),
                static_cast<std::int32_t>(operations.size()), static_cast<std::int32_t>(inputs.size()),
                static_cast<std::int32_t>(weights.size()), static_cast<std::int32_t>(filters.size()),
                planes, sample_rate, input_level, output_level};
    }

private:
    typedef detail::Json Json;
    static constexpr double MOST_WEIGHTS = 1e7, MOST_PLANES = 65536, LARGEST = 1e30;

    static bool read(const Json* value, double least, double most, double& number) {
        if (!value || value->type != Json::Type::number || !(value->number >= least && value->number <= most))
            return false;
        number = value->number;
        return true;
    }

    static bool read(const Json* value, int most, std::int32_t& number) {
        double exact = 0;
        if (!read(value, 0, most, exact) || exact != std::floor(exact)) return false;
        number = static_cast<std::int32_t>(exact);
        return true;
    }

    template <class S>
    static bool append(const Json* list, std::vector<S>& numbers) {
        if (!list || list->type != Json::Type::list) return false;
        for (const Json& item : list->items) {
            double number = 0;
            if (!read(&item, -LARGEST, LARGEST, number)) return false;
            numbers.push_back(static_cast<S>(number));
        }
        return true;
    }

    static bool is_list(const Json* value) { return value && value->type == Json::Type::list && !value->items.empty(); }

    std::string take(const Json& root) {
        const Json* format = root.find("format");
        if (!format || format->text != "klann") return "no model of a KLANN: its format is not \"klann\"";
        double version = 0;
        if (!read(root.find("version"), 0, 1e9, version)) return "no version";
        if (version != VERSION)
            return "version " + std::to_string(static_cast<long>(version)) + " is not known; this reads version " +
                   std::to_string(VERSION);
        if (!read(root.find("sample_rate"), 1, 1e8, sample_rate)) return "no usable sample_rate";
        if (!read(root.find("input_level"), 1e-12, 1e12, input_level)) return "no usable input_level";
        if (!read(root.find("output_level"), 0, 1e12, output_level)) return "no usable output_level";
        const Json* bank = root.find("filters");
        const Json* list = root.find("operations");
        if (!bank || bank->type != Json::Type::list) return "no list of filters";
        if (!is_list(list)) return "no list of operations";
        for (const Json& one : bank->items)
            if (!take_filter(one)) return "filter " + std::to_string(filters.size()) + " is not usable";
        std::vector<bool> used(filters.size());
        for (const Json& one : list->items)
            if (!take_operation(one, used)) return "operation " + std::to_string(operations.size()) + " is not usable";
        if (operations.back().width != 1) return "the last operation does not write one plane";
        for (const bool one : used)
            if (!one) return "a filter is in no operation";
        const Json* snapshot = root.find("snapshot");
        if (snapshot && !(append(snapshot->find("input"), snapshot_input) &&
                          append(snapshot->find("output"), snapshot_output) &&
                          snapshot_input.size() == snapshot_output.size()))
            return "the snapshot is not usable";
        return "";
    }

    bool take_filter(const Json& one) {
        std::vector<double> mix, state;
        Filter f{};
        if (!read(one.find("cutoff_hz"), 1e-9, sample_rate / 2, f.cutoff_hz)) return false;
        if (!read(one.find("damping"), 0, LARGEST, f.damping)) return false;
        if (!append(one.find("mix"), mix) || mix.size() != 3) return false;
        if (!append(one.find("state"), state) || state.size() != 2) return false;
        f.low = mix[0];
        f.band = mix[1];
        f.high = mix[2];
        f.first = state[0];
        f.second = state[1];
        filters.push_back(f);
        return true;
    }

    bool take_operation(const Json& one, std::vector<bool>& used) {
        const Json *kind = one.find("kind"), *from = one.find("inputs");
        if (!kind || !is_list(from)) return false;
        Operation op{};
        op.inputs = static_cast<std::int32_t>(inputs.size());
        op.fan_in = static_cast<std::int32_t>(from->items.size());
        op.output = planes;
        for (const Json& item : from->items) {
            std::int32_t input = 0;
            if (!read(&item, planes - 1, input)) return false;
            inputs.push_back(input);
        }
        if (kind->text == "filter") {
            op.kind = Kind::filter;
            op.width = 1;
            if (op.fan_in != 1 || filters.empty()) return false;
            if (!read(one.find("filter"), static_cast<int>(filters.size()) - 1, op.weight)) return false;
            if (used[static_cast<std::size_t>(op.weight)]) return false;
            used[static_cast<std::size_t>(op.weight)] = true;
        } else if (kind->text == "gated" || kind->text == "linear") {
            op.kind = kind->text == "gated" ? Kind::gated : Kind::linear;
            if (!take_layer(one, op)) return false;
        } else {
            return false;
        }
        planes += op.width;
        operations.push_back(op);
        return planes <= MOST_PLANES && static_cast<double>(inputs.size()) <= MOST_WEIGHTS;
    }

    bool take_layer(const Json& one, Operation& op) {
        const Json *rows = one.find("weight"), *bias = one.find("bias");
        if (!is_list(rows) || !is_list(bias) || rows->items.size() != bias->items.size()) return false;
        const std::size_t count = rows->items.size(), gates = op.kind == Kind::gated ? 2 : 1;
        if (count % gates || static_cast<double>(count) > MOST_PLANES) return false;
        op.width = static_cast<std::int32_t>(count / gates);
        op.weight = static_cast<std::int32_t>(weights.size());
        for (const Json& row : rows->items)
            if (row.items.size() != static_cast<std::size_t>(op.fan_in) || !append(&row, weights)) return false;
        op.bias = static_cast<std::int32_t>(weights.size());
        return append(bias, weights) && static_cast<double>(weights.size()) <= MOST_WEIGHTS;
    }

    std::vector<Operation> operations;
    std::vector<std::int32_t> inputs;
    std::vector<float> weights;
    std::vector<Filter> filters;
    std::int32_t planes = 1;
    double sample_rate = 0, input_level = 0, output_level = 0;
};

}  // namespace klann

#undef KLANN_FLUSHES
#endif
