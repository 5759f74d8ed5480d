// The model as an LV2 plug-in for any host: one channel in, one out; late where it is oversampled, and says so.
#include <lv2/core/lv2.h>

#include <cmath>

#include "klann.hpp"
#include "model.hpp"

#if !defined(OVERSAMPLING)
#define OVERSAMPLING 1
#endif

namespace {

enum Port : std::uint32_t { INPUT = 0, OUTPUT = 1, LEVEL = 2, LATENCY = 3 };

struct Plugin {
    explicit Plugin(double sample_rate) : player(model::MODEL, 1, sample_rate, OVERSAMPLING) {}

    klann::Processor<float> player;
    const float* input = nullptr;
    float* output = nullptr;
    const float* level_db = nullptr;
    float* latency = nullptr;
};

LV2_Handle instantiate(const LV2_Descriptor*, double sample_rate, const char*, const LV2_Feature* const*) {
    try {
        return new Plugin(sample_rate);
    } catch (...) {  // no memory
        return nullptr;
    }
}

void connect_port(LV2_Handle handle, std::uint32_t port, void* data) {
    Plugin& plugin = *static_cast<Plugin*>(handle);
    if (port == INPUT) plugin.input = static_cast<const float*>(data);
    if (port == OUTPUT) plugin.output = static_cast<float*>(data);
    if (port == LEVEL) plugin.level_db = static_cast<const float*>(data);
    if (port == LATENCY) plugin.latency = static_cast<float*>(data);
}

void activate(LV2_Handle handle) { static_cast<Plugin*>(handle)->player.reset(); }

void run(LV2_Handle handle, std::uint32_t frames) {
    Plugin& plugin = *static_cast<Plugin*>(handle);
    *plugin.latency = static_cast<float>(plugin.player.latency());
    plugin.player.process(plugin.input, plugin.output, frames);
    const float gain = std::pow(10.0F, *plugin.level_db / 20.0F);
    for (std::uint32_t t = 0; t < frames; ++t) plugin.output[t] *= gain;
}

void cleanup(LV2_Handle handle) { delete static_cast<Plugin*>(handle); }

const LV2_Descriptor DESCRIPTOR = {"urn:klann:model", instantiate, connect_port, activate, run, nullptr, cleanup, nullptr};

}  // namespace

LV2_SYMBOL_EXPORT const LV2_Descriptor* lv2_descriptor(std::uint32_t index) { return index == 0 ? &DESCRIPTOR : nullptr; }
