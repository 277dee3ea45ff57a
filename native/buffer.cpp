#include "buffer.h"

#include <unistd.h>

#include <cstring>
#include <new>

namespace upright {

namespace {

constexpr std::align_val_t LINE{64};

}  // namespace

double memory_of_machine() {
    return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

Buffer::Buffer(Size size) : size_(size) {
    const auto bytes = static_cast<std::size_t>(size) * sizeof(float);
    data_.reset(static_cast<float*>(::operator new[](bytes, LINE)));
    std::memset(data_.get(), 0, bytes);
}

void Buffer::Free::operator()(float* data) const { ::operator delete[](data, LINE); }

}  // namespace upright
