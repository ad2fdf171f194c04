// Equal numbers brought together: which positions of an array hold each of its numbers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fusestep {

// The numbers of an array in ascending order, and for each its positions, ascending too: what a
// stable sort finds, on any number of threads. The memory of the longest array so far is kept: 20
// bytes for each number (36 where they are 2^32 or more apart) and 12 for each different one.
class Grouping {
 public:
    // n is below 2^32.
    template <class Id>
    void group(const Id* ids, std::size_t n);

    std::size_t count() const { return count_; }  // of different numbers
    const std::int64_t* ids() const { return ids_.data(); }
    // Group g is order()[begins()[g]] to order()[begins()[g + 1]], without the last.
    const std::uint32_t* begins() const { return begins_.data(); }
    const std::uint32_t* order() const { return order_.data(); }
    // Writes the group of each position.
    void write_inverse(std::ptrdiff_t* inverse) const;

 private:
    // A number's distance from the smallest, and where it stands.
    template <class Key>
    struct Entry {
        Entry() {}  // a vector that grows leaves it as it is
        Entry(Key k, std::uint32_t p) : key(k), position(p) {}
        Key key;
        std::uint32_t position;
    };
    template <class Key>
    using Entries = std::vector<Entry<Key>>;

    template <class Id, class Key>
    void group(const Id* ids, std::size_t n, Id smallest, bool ascending, Key range,
               Entries<Key>& entries, Entries<Key>& others);
    template <class Key>
    void sort_digit(const Entry<Key>* from, Entry<Key>* to, std::size_t n, int shift, int bits);
    template <class Id, class Key>
    void divide(const Entry<Key>* sorted, std::size_t n, Id smallest);

    std::size_t count_ = 0;
    std::vector<std::int64_t> ids_;
    std::vector<std::uint32_t> begins_;
    std::vector<std::uint32_t> order_;
    std::vector<std::uint32_t> places_;  // where each piece writes each digit, or begins groups
    Entries<std::uint32_t> narrow_[2];
    Entries<std::uint64_t> wide_[2];
};

}  // namespace fusestep
