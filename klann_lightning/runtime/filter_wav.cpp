// Plays a wav file through the model: filter_wav [OPTIONS] IN.wav OUT.wav
// --model model.json, --block N, --double, --oversampling 2 or 4: the output is in step with the input.
// filter_wav --check [--model model.json] holds the model against the snapshot of where it was exported.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "klann.hpp"
#include "model.hpp"

namespace {

struct Sound {
    double sample_rate = 0;
    std::vector<std::vector<float>> channels;
};

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::uint32_t number(const std::string& bytes, std::size_t at, int count) {
    if (at + static_cast<std::size_t>(count) > bytes.size()) throw std::runtime_error("the wav file is cut off");
    std::uint32_t value = 0;
    for (int i = 0; i < count; ++i)
        value |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)])) << (8 * i);
    return value;
}

float sample(const std::string& bytes, std::size_t at, std::uint32_t kind, int width) {
    if (kind == 3 && width == 4) {
        const std::uint32_t bits = number(bytes, at, 4);
        float value = 0;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    const std::uint32_t left = number(bytes, at, width) << (32 - 8 * width);  // two's complement
    return static_cast<float>(static_cast<double>(static_cast<std::int32_t>(left)) / 2147483648.0);
}

Sound read_wav(const std::string& path) {
    const std::string bytes = bytes_of(path);
    if (bytes.size() < 12 || bytes.compare(0, 4, "RIFF") != 0 || bytes.compare(8, 4, "WAVE") != 0)
        throw std::runtime_error(path + " is no wav file");
    Sound sound;
    std::uint32_t kind = 0, channels = 0;
    int width = 0;
    for (std::size_t at = 12; at + 8 <= bytes.size();) {
        const std::string name = bytes.substr(at, 4);
        const std::size_t size = number(bytes, at + 4, 4), start = at + 8;
        if (name == "fmt ") {
            kind = number(bytes, start, 2);
            channels = number(bytes, start + 2, 2);
            sound.sample_rate = number(bytes, start + 4, 4);
            width = static_cast<int>(number(bytes, start + 14, 2)) / 8;
            if (kind == 0xFFFE) kind = number(bytes, start + 24, 2);  // extensible
        } else if (name == "data") {
            const bool known = (kind == 1 && width >= 2 && width <= 4) || (kind == 3 && width == 4);
            if (!known || channels == 0) throw std::runtime_error(path + " is not 16, 24 or 32 bit, nor 32-bit float");
            const std::size_t step = static_cast<std::size_t>(width) * channels;
            const std::size_t frames = std::min(size, bytes.size() - start) / step;
            sound.channels.assign(channels, std::vector<float>(frames));
            for (std::size_t t = 0; t < frames; ++t)
                for (std::size_t c = 0; c < channels; ++c)
                    sound.channels[c][t] = sample(bytes, start + t * step + c * static_cast<std::size_t>(width), kind, width);
            return sound;
        }
        at = start + size + (size & 1U);
    }
    throw std::runtime_error(path + " holds no samples");
}

void put(std::string& bytes, std::size_t value, int count) {
    for (int i = 0; i < count; ++i) bytes.push_back(static_cast<char>((value >> (8 * i)) & 0xFFU));
}

void write_wav(const std::string& path, const Sound& sound) {
    const std::size_t channels = sound.channels.size(), frames = sound.channels[0].size(), size = 4 * channels * frames;
    std::string bytes = "RIFF";
    put(bytes, 36 + size, 4);
    bytes += "WAVEfmt ";
    put(bytes, 16, 4);
    put(bytes, 3, 2);  // float
    put(bytes, channels, 2);
    const auto rate = static_cast<std::size_t>(sound.sample_rate);
    put(bytes, rate, 4);
    put(bytes, rate * 4 * channels, 4);
    put(bytes, 4 * channels, 2);
    put(bytes, 32, 2);
    bytes += "data";
    put(bytes, size, 4);
    for (std::size_t t = 0; t < frames; ++t)
        for (const std::vector<float>& channel : sound.channels) {
            std::uint32_t bits = 0;
            std::memcpy(&bits, &channel[t], 4);
            put(bytes, bits, 4);
        }
    std::ofstream file(path, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

template <class S>
void filter(const klann::Model& model, Sound& sound, std::size_t block, int oversampling) {
    klann::Processor<S> player(model, static_cast<int>(sound.channels.size()), sound.sample_rate, oversampling);
    const auto late = static_cast<std::size_t>(player.latency());
    const std::size_t frames = sound.channels[0].size() + late;
    std::vector<std::vector<S>> samples;
    for (const std::vector<float>& channel : sound.channels) {
        samples.emplace_back(channel.begin(), channel.end());
        samples.back().resize(frames);
    }
    std::vector<S*> at(samples.size());
    std::vector<double> seconds;
    for (std::size_t t = 0; t < frames; t += block) {
        for (std::size_t c = 0; c < at.size(); ++c) at[c] = samples[c].data() + t;
        const auto began = std::chrono::steady_clock::now();
        player.process(at.data(), at.data(), std::min(block, frames - t));
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    }
    for (std::size_t c = 0; c < samples.size(); ++c)
        std::transform(samples[c].begin() + player.latency(), samples[c].end(), sound.channels[c].begin(),
                       [](S y) { return static_cast<float>(y); });
    double total = 0;
    for (const double one : seconds) total += one;
    std::sort(seconds.begin(), seconds.end());
    if (total > 0)
        std::printf("%.0f times real time; a block of %zu: median %.2f us, worst %.2f us\n",
                    static_cast<double>(frames) / sound.sample_rate / total, block, 1e6 * seconds[seconds.size() / 2],
                    1e6 * seconds.back());
}

// The error against a snapshot, in dB.
template <class S>
double error_db(const klann::Document& document) {
    klann::Processor<S> player(document.model());
    double error = 1e-300, power = 1e-300;
    for (std::size_t t = 0; t < document.snapshot_input.size(); ++t) {
        const double y = document.snapshot_output[t];
        const double off = static_cast<double>(player.tick(static_cast<S>(document.snapshot_input[t]))) - y;
        error += off * off;
        power += y * y;
    }
    return 10 * std::log10(error / power);
}

int run(std::vector<std::string> words) {
    std::string json;
    std::size_t block = 64;
    int oversampling = 1;
    bool exact = false, check = false;
    std::vector<std::string> files;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const bool more = i + 1 < words.size();
        if (words[i] == "--model" && more) json = words[++i];
        else if (words[i] == "--block" && more) block = std::max(1UL, std::stoul(words[++i]));
        else if (words[i] == "--oversampling" && more) oversampling = words[++i] == "1" ? 1 : words[i] == "2" ? 2 : words[i] == "4" ? 4 : 0;
        else if (words[i] == "--double") exact = true;
        else if (words[i] == "--check") check = true;
        else files.push_back(words[i]);
    }
    klann::Document document;
    if (check && json.empty()) json = "model.json";
    if (!json.empty()) {
        const std::string fault = document.parse(bytes_of(json));
        if (!fault.empty()) throw std::runtime_error(json + ": " + fault);
    }
    if (check) {
        std::printf("against the snapshot: float %.1f dB, double %.1f dB\n", error_db<float>(document), error_db<double>(document));
        return error_db<float>(document) < -100 ? 0 : 1;
    }
    if (files.size() != 2)
        throw std::runtime_error("usage: filter_wav [--model model.json] [--block N] [--double] [--oversampling N] IN.wav OUT.wav");
    if (oversampling == 0)
        throw std::runtime_error("oversampling is by 1, 2 or 4");
    const klann::Model model = json.empty() ? model::MODEL : document.model();
    Sound sound = read_wav(files[0]);
    if (sound.sample_rate != model.sample_rate)
        std::printf("note: the file has %.0f Hz, the model was trained at %.0f Hz: its filters are made for the file\n",
                    sound.sample_rate, model.sample_rate);
    if (exact) filter<double>(model, sound, block, oversampling);
    else filter<float>(model, sound, block, oversampling);
    write_wav(files[1], sound);
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        return run({words + 1, words + count});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 2;
    }
}
