// Copies chosen rows of many arrays side by side, in the background.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../kernels/table.h"
#include "../runtime/pool.h"

namespace fusestep {

// One array: rows of `row_elements` elements of `item_size` bytes, `stride` bytes apart.
struct RowSource {
    const char* source;
    std::ptrdiff_t stride;
    std::size_t row_elements;
    std::size_t item_size;
    Convert convert = nullptr;  // nullptr: copied as they are
    float scale = 1.0f;         // otherwise scale * float32(x) + shift
    float shift = 0.0f;
    char* target;  // rows without gaps
};

// Row i of every target becomes row indices[i] of its source, in the background and in this order.
// The memory must last as long as this does.
class Gathering {
 public:
    Gathering(std::vector<RowSource> columns, const std::uint32_t* indices, std::size_t n);
    Gathering(std::vector<RowSource> columns, const std::uint64_t* indices, std::size_t n);

    bool has(std::size_t rows) { return background_->has(chunks(rows)); }
    void finish(std::size_t rows) { background_->finish(chunks(rows)); }

 private:
    template <class Index>
    void gather(const Index* indices, std::size_t chunk) const;
    static void run(void* gathering, std::size_t chunk);
    void begin();
    std::size_t chunks(std::size_t rows) const { return (rows + chunk_rows_ - 1) / chunk_rows_; }

    std::vector<RowSource> columns_;
    const std::uint32_t* narrow_ = nullptr;  // the indices, in one of two widths
    const std::uint64_t* wide_ = nullptr;
    std::size_t n_;
    std::size_t chunk_rows_ = 1;
    std::unique_ptr<Background> background_;
};

}  // namespace fusestep
