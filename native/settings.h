// What a learner is made from, read from what Python hands over.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "learner.h"

namespace upright {

// The engine lacks what was asked for: a loss, an activation, a kind of layer, so many fractions. `what` ends a sentence.
class Lacking : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

// Values by name, each of which has to be taken.
class Words {
  public:
    explicit Words(nanobind::dict given) : given_(std::move(given)) {}

    template <typename Value>
    Value take(const char* name) {
        if (!given_.contains(name)) throw nanobind::type_error((std::string(name) + " is missing").c_str());
        taken_.emplace_back(name);
        Value value{};
        if (!nanobind::try_cast(given_[name], value))
            throw nanobind::type_error((std::string(name) + " is of another type").c_str());
        return value;
    }

    // Throws Lacking when one was not: a setting that the engine passed over would have no effect.
    void check_all_taken(const std::string& what) const {
        for (const auto& [key, value] : given_)
            if (const std::string name = nanobind::str(key).c_str(); std::find(taken_.begin(), taken_.end(), name) == taken_.end())
                throw Lacking(what + name + " is not known to the native engine");
    }

  private:
    nanobind::dict given_;
    std::vector<std::string> taken_;
};

// The settings by the names of upright.settings.config, "layers" as upright.learners.layout lists them, and "actions".
// Throws Lacking, TypeError, and std::invalid_argument for what does not fit together.
Settings read_settings(const nanobind::dict& given);

}  // namespace upright
