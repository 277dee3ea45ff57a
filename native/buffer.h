// Memory for floats that vector instructions read.
#pragma once

#include <memory>

#include "kernels.h"

namespace upright {

// The bytes of memory that this machine has, used or not.
double memory_of_machine();

// Floats that begin on a cache line, all 0 at first.
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(Size size);
    float* data() { return data_.get(); }
    const float* data() const { return data_.get(); }
    Size size() const { return size_; }

  private:
    struct Free {
        void operator()(float* data) const;
    };
    std::unique_ptr<float[], Free> data_;
    Size size_ = 0;
};

}  // namespace upright
