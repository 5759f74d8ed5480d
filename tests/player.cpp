// Plays raw samples for the tests: player MODEL.json float|double BLOCKS CHANNELS OVERSAMPLING IN.raw OUT.raw
// BLOCKS: sizes that are taken in turn, as 1,64,1000. Channels lie one after the other in the files.
// player --load MODEL.json...: says of each whether it can be read.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "klann.hpp"

namespace {

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

template <class S>
std::vector<S> samples_of(const std::string& path) {
    const std::string bytes = bytes_of(path);
    std::vector<S> samples(bytes.size() / sizeof(S));
    std::memcpy(samples.data(), bytes.data(), samples.size() * sizeof(S));
    return samples;
}

template <class S>
void play(const klann::Model& model, const std::string& sizes, int channels, int oversampling, const std::string& in,
          const std::string& out) {
    std::vector<std::size_t> blocks;
    std::istringstream text(sizes);
    for (std::string size; std::getline(text, size, ',');) blocks.push_back(std::stoul(size));
    const std::vector<S> x = samples_of<S>(in);
    std::vector<S> y(x.size());
    const std::size_t frames = x.size() / static_cast<std::size_t>(channels);
    klann::Processor<S> player(model, channels, 0, oversampling);
    std::size_t turn = 0;
    for (std::size_t t = 0; t < frames;) {
        const std::size_t count = std::min(blocks[turn++ % blocks.size()], frames - t);
        if (count == 1) {
            for (int c = 0; c < channels; ++c) y[static_cast<std::size_t>(c) * frames + t] = player.tick(x[static_cast<std::size_t>(c) * frames + t], c);
        } else {
            std::vector<const S*> from;
            std::vector<S*> to;
            for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
                from.push_back(x.data() + c * frames + t);
                to.push_back(y.data() + c * frames + t);
            }
            player.process(from.data(), to.data(), count);
        }
        t += count;
    }
    std::ofstream(out, std::ios::binary).write(reinterpret_cast<const char*>(y.data()), static_cast<std::streamsize>(y.size() * sizeof(S)));
}

}  // namespace

int main(int count, char** words) {
    const std::vector<std::string> given(words + 1, words + count);
    if (given[0] == "--load") {
        for (std::size_t i = 1; i < given.size(); ++i) {
            klann::Document document;
            const std::string fault = document.parse(bytes_of(given[i]));
            if (fault.empty()) {
                klann::Processor<float> player(document.model());
                player.tick(1);
            }
            std::printf("%s\n", fault.empty() ? "fine" : fault.c_str());
        }
        return 0;
    }
    klann::Document document;
    const std::string fault = document.parse(bytes_of(given[0]));
    if (!fault.empty()) {
        std::fprintf(stderr, "%s\n", fault.c_str());
        return 2;
    }
    if (given[1] == "float") play<float>(document.model(), given[2], std::stoi(given[3]), std::stoi(given[4]), given[5], given[6]);
    else play<double>(document.model(), given[2], std::stoi(given[3]), std::stoi(given[4]), given[5], given[6]);
    return 0;
}
