// The player for a browser: what an AudioWorklet calls, as WebAssembly. `make wasm` builds klann.wasm from it.
#include "klann.hpp"

#if !defined(KLANN_SOURCE)
#define KLANN_SOURCE ""  // SHA-256 of klann.hpp and this file, one after the other
#endif

#define KLANN_EXPORT(name) __attribute__((export_name(name)))

namespace {

constexpr std::size_t BLOCK = 128;  // frames, at most: what a worklet is called for

struct Player {
    klann::Document document;
    std::string text, error;
    std::vector<float> samples;
    std::vector<float*> rows;
    std::unique_ptr<klann::Processor<float>> processor;
};

}  // namespace

extern "C" {

KLANN_EXPORT("source") const char* source() { return KLANN_SOURCE; }

// A player, whose document of `length` bytes is to be written to `text`.
KLANN_EXPORT("make") Player* make(std::size_t length) {
    Player* player = new Player;
    player->text.resize(length);
    return player;
}

KLANN_EXPORT("text") char* text(Player* player) { return player->text.data(); }

// What is wrong with the document, in words; nothing if all is well. Only then may the rest be called.
KLANN_EXPORT("open") const char* open_document(Player* player, int channels, double sample_rate, int oversampling) {
    player->error = player->document.parse(player->text);
    player->text = std::string();
    if (!player->error.empty()) return player->error.c_str();
    player->processor =
        std::make_unique<klann::Processor<float>>(player->document.model(), channels, sample_rate, oversampling);
    player->samples.resize(BLOCK * static_cast<std::size_t>(channels));
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c)
        player->rows.push_back(player->samples.data() + c * BLOCK);
    return player->error.c_str();
}

KLANN_EXPORT("latency") int latency(const Player* player) { return player->processor->latency(); }

// A channel's samples: they are filled, played in place, and read.
KLANN_EXPORT("row") float* row(const Player* player, std::size_t channel) { return player->rows[channel]; }

KLANN_EXPORT("process") void process(Player* player, std::size_t frames) {
    player->processor->process(player->rows.data(), player->rows.data(), frames);
}

KLANN_EXPORT("reset") void reset(Player* player) { player->processor->reset(); }

}  // extern "C"
