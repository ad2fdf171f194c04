#include "grouping.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "pool.h"

namespace fusestep {
namespace {

// A piece is sorted by one thread. Less than this is done sooner than a helper comes.
constexpr std::size_t kPiece = 16 * 1024;
constexpr std::size_t kMostPieces = 64;
// A digit of a short array has few values: their counts are cleared and added up each time.
constexpr std::size_t kShort = 4096;
constexpr int kShortDigit = 8, kLongDigit = 11;

// An array cut into pieces of nearly the same size.
class Pieces {
 public:
    explicit Pieces(std::size_t n)
        : n_(n), count_(std::clamp<std::size_t>(n / kPiece, 1, kMostPieces)) {}

    std::size_t count() const { return count_; }

    // Calls visit(piece, begin, end) for each piece, on several threads.
    template <class Visit>
    void visit(Visit visit) const {
        auto task = [&](std::size_t i) { visit(i, n_ * i / count_, n_ * (i + 1) / count_); };
        if (count_ == 1) {
            task(0);
        } else {
            run_parallel(count_, true, task);
        }
    }

 private:
    std::size_t n_;
    std::size_t count_;
};

template <class T>
void grow(std::vector<T>& memory, std::size_t n) {
    if (memory.size() < n) memory.resize(n);
}

template <class Key>
int bit_length(Key x) {
    int bits = 0;
    for (; x != 0; x = static_cast<Key>(x >> 1)) ++bits;
    return bits;
}

template <class Id>
struct Bounds {
    Id smallest;
    Id largest;
    bool ascending;  // each at least as large as the one before
};

template <class Id>
Bounds<Id> find_bounds(const Id* ids, std::size_t n) {
    const Pieces pieces(n);
    Bounds<Id> of_pieces[kMostPieces];
    pieces.visit([&](std::size_t piece, std::size_t begin, std::size_t end) {
        Bounds<Id> bounds{ids[begin], ids[begin], begin == 0 || ids[begin - 1] <= ids[begin]};
        for (std::size_t i = begin + 1; i < end; ++i) {
            bounds.smallest = std::min(bounds.smallest, ids[i]);
            bounds.largest = std::max(bounds.largest, ids[i]);
            bounds.ascending &= ids[i - 1] <= ids[i];
        }
        of_pieces[piece] = bounds;
    });
    Bounds<Id> all = of_pieces[0];
    for (std::size_t i = 1; i < pieces.count(); ++i) {
        all.smallest = std::min(all.smallest, of_pieces[i].smallest);
        all.largest = std::max(all.largest, of_pieces[i].largest);
        all.ascending &= of_pieces[i].ascending;
    }
    return all;
}

}  // namespace

template <class Id>
void Grouping::group(const Id* ids, std::size_t n) {
    if (n == 0) {
        count_ = 0;
        return;
    }
    const Bounds<Id> bounds = find_bounds(ids, n);
    const std::uint64_t range =
        static_cast<std::uint64_t>(bounds.largest) - static_cast<std::uint64_t>(bounds.smallest);
    if (range <= 0xffffffffu) {
        group(ids, n, bounds.smallest, bounds.ascending, static_cast<std::uint32_t>(range),
              narrow_[0], narrow_[1]);
    } else {
        group(ids, n, bounds.smallest, bounds.ascending, range, wide_[0], wide_[1]);
    }
}

template <class Id, class Key>
void Grouping::group(const Id* ids, std::size_t n, Id smallest, bool ascending, Key range,
                     Entries<Key>& entries, Entries<Key>& others) {
    grow(entries, n);
    grow(others, n);
    Entry<Key>* from = entries.data();
    Entry<Key>* to = others.data();
    Pieces(n).visit([&](std::size_t, std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            from[i] = {static_cast<Key>(static_cast<std::uint64_t>(ids[i]) -
                                        static_cast<std::uint64_t>(smallest)),
                       static_cast<std::uint32_t>(i)};
        }
    });
    const int length = bit_length(range), digit = n < kShort ? kShortDigit : kLongDigit;
    const int digits = ascending ? 0 : (length + digit - 1) / digit;
    for (int i = 0; i < digits; ++i) {
        const int shift = length * i / digits, bits = length * (i + 1) / digits - shift;
        sort_digit(from, to, n, shift, bits);
        std::swap(from, to);
    }
    divide(from, n, smallest);
}

// Stable: a piece writes behind those before it.
template <class Key>
void Grouping::sort_digit(const Entry<Key>* from, Entry<Key>* to, std::size_t n, int shift,
                          int bits) {
    const Pieces pieces(n);
    const std::size_t values = std::size_t{1} << bits, mask = values - 1;
    places_.assign(values * pieces.count(), 0);
    std::uint32_t* const places = places_.data();
    pieces.visit([=](std::size_t piece, std::size_t begin, std::size_t end) {
        std::uint32_t* const counts = places + piece * values;
        for (std::size_t i = begin; i < end; ++i) {
            ++counts[static_cast<std::size_t>(from[i].key >> shift) & mask];
        }
    });
    std::uint32_t place = 0;
    for (std::size_t value = 0; value < values; ++value) {
        for (std::size_t piece = 0; piece < pieces.count(); ++piece) {
            place += std::exchange(places[piece * values + value], place);
        }
    }
    pieces.visit([=](std::size_t piece, std::size_t begin, std::size_t end) {
        std::uint32_t* const next = places + piece * values;
        for (std::size_t i = begin; i < end; ++i) {
            to[next[static_cast<std::size_t>(from[i].key >> shift) & mask]++] = from[i];
        }
    });
}

template <class Id, class Key>
void Grouping::divide(const Entry<Key>* sorted, std::size_t n, Id smallest) {
    const auto begins_group = [=](std::size_t i) {
        return i == 0 || sorted[i].key != sorted[i - 1].key;
    };
    const Pieces pieces(n);
    places_.assign(pieces.count(), 0);
    pieces.visit([&](std::size_t piece, std::size_t begin, std::size_t end) {
        std::uint32_t groups = 0;
        for (std::size_t i = begin; i < end; ++i) groups += begins_group(i) ? 1u : 0u;
        places_[piece] = groups;
    });
    std::uint32_t groups = 0;
    for (std::uint32_t& place : places_) groups += std::exchange(place, groups);
    grow(ids_, groups);
    grow(begins_, groups + std::size_t{1});
    grow(order_, n);
    pieces.visit([&](std::size_t piece, std::size_t begin, std::size_t end) {
        std::size_t group = places_[piece];
        for (std::size_t i = begin; i < end; ++i) {
            order_[i] = sorted[i].position;
            if (!begins_group(i)) continue;
            ids_[group] = static_cast<std::int64_t>(static_cast<std::uint64_t>(smallest) +
                                                    static_cast<std::uint64_t>(sorted[i].key));
            begins_[group++] = static_cast<std::uint32_t>(i);
        }
    });
    begins_[groups] = static_cast<std::uint32_t>(n);
    count_ = groups;
}

void Grouping::write_inverse(std::ptrdiff_t* inverse) const {
    const std::uint32_t* const begins = begins_.data();
    const std::size_t n = count_ == 0 ? 0 : begins[count_];
    Pieces(n).visit([&](std::size_t, std::size_t begin, std::size_t end) {
        const auto next = std::upper_bound(begins, begins + count_, begin);
        std::ptrdiff_t group = next - begins - 1;
        for (std::size_t i = begin; i < end; ++i) {
            if (i == begins[group + 1]) ++group;
            inverse[order_[i]] = group;
        }
    });
}

template void Grouping::group(const std::int32_t*, std::size_t);
template void Grouping::group(const std::int64_t*, std::size_t);
template void Grouping::group(const std::uint32_t*, std::size_t);

}  // namespace fusestep
