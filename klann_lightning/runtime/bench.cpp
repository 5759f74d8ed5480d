// How fast a model plays on one core, for the command `bench`: bench MODEL.json BLOCK BLOCKS REPEATS
//
// The same BLOCKS blocks are played REPEATS times from the first state on, and each is timed. A block counts with the
// quickest of its times: an interruption hits another block each time, what is slow in the code hits the same. Their
// worst over their median is what a sound alone can make of a block. Time of the thread would not do: reading it takes
// as long as a block, and a virtual machine counts as its own what others take from it.
// Printed as JSON, in microseconds: the median of each repeat and the 99.9th percentile of all times, as they were; the
// median and the worst of the quickest times.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "klann.hpp"

namespace {

// A quarter each: noise, a full-scale square wave, noise that fades out through the denormal numbers, silence.
std::vector<float> signal(std::size_t samples) {
    std::vector<float> x(samples);
    const std::size_t quarter = samples / 4;
    std::uint32_t seed = 1;
    for (std::size_t t = 0; t < 3 * quarter; ++t) {
        seed = seed * 1664525U + 1013904223U;
        const double noise = static_cast<std::int32_t>(seed) / 2147483648.0;
        if (t < quarter) x[t] = static_cast<float>(noise);
        else if (t < 2 * quarter) x[t] = t / 50 % 2 ? 1.0F : -1.0F;
        else x[t] = static_cast<float>(noise * std::pow(10, -46.0 * static_cast<double>(t - 2 * quarter) / static_cast<double>(quarter)));
    }
    return x;
}

double quantile(std::vector<double> values, double portion) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(portion * static_cast<double>(values.size() - 1))];
}

void bench(const klann::Model& model, std::size_t block, std::size_t blocks, std::size_t repeats) {
    using Clock = std::chrono::steady_clock;
    klann::Processor<float> player(model);
    const std::vector<float> x = signal(block * blocks);
    std::vector<float> in(block), out(block);
    std::vector<double> quickest(blocks, 1e300), all;
    all.reserve(blocks * repeats);
    for (std::size_t repeat = 0; repeat < repeats; ++repeat) {  // nothing else in between: caches stay as they are
        player.reset();
        for (std::size_t i = 0; i < blocks; ++i) {
            std::copy_n(x.data() + i * block, block, in.data());  // as a host hands it over
            const auto start = Clock::now();
            player.process(in.data(), out.data(), block);
            const double took = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
            quickest[i] = std::min(quickest[i], took);
            all.push_back(took);
        }
    }
    std::printf("{\"latency_us\": [");
    for (std::size_t i = 0; i < repeats; ++i) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(i * blocks);
        std::printf("%s%.4f", i ? ", " : "", quantile({begin, begin + static_cast<std::ptrdiff_t>(blocks)}, 0.5));
    }
    std::printf("], \"p999_us\": %.4f, \"quickest_us\": %.4f, \"worst_us\": %.4f}\n", quantile(all, 0.999),
                quantile(quickest, 0.5), quantile(quickest, 1));
}

}  // namespace

int main(int count, char** words) {
    if (count != 5) return 2;
    std::ifstream file(words[1], std::ios::binary);
    klann::Document document;
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()}, fault = document.parse(text);
    if (!fault.empty()) {
        std::fprintf(stderr, "error: %s: %s\n", words[1], fault.c_str());
        return 2;
    }
    bench(document.model(), std::stoul(words[2]), std::stoul(words[3]), std::stoul(words[4]));
    return 0;
}
