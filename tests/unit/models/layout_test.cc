// How a layer is cut into slabs (models/layout.c): nothing lost, nothing twice, slabs alike, matrices in few pieces.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

extern "C" {
#include "models/model_internal.h"
}

namespace {

struct Cut {
    std::vector<cut_matrix> matrices;
    size_t vectors;
    uint32_t slabs;

    std::vector<row_range> slab(uint32_t index) const {
        std::vector<row_range> rows(matrices.size());
        layout_cut(matrices.data(), static_cast<uint32_t>(matrices.size()), vectors, slabs, index, rows.data());
        return rows;
    }
    size_t bytes(uint32_t index) const {
        size_t bytes = index == 0 ? vectors : 0;
        const std::vector<row_range> rows = slab(index);
        for (size_t i = 0; i < matrices.size(); i++) {
            bytes += (rows[i].count + WEIGHT_ROW_GROUP - 1) / WEIGHT_ROW_GROUP * matrices[i].group_bytes;
        }
        return bytes;
    }
    size_t largest() const {
        size_t most = 0;
        for (uint32_t index = 0; index < slabs; index++) {
            most = std::max(most, bytes(index));
        }
        return most;
    }
    size_t total() const {
        size_t total = vectors;
        for (const cut_matrix &matrix : matrices) {
            total += (matrix.rows + WEIGHT_ROW_GROUP - 1) / WEIGHT_ROW_GROUP * matrix.group_bytes;
        }
        return total;
    }
    uint32_t pieces() const {
        uint32_t pieces = 0;
        for (uint32_t index = 0; index < slabs; index++) {
            for (const row_range &rows : slab(index)) {
                pieces += rows.count > 0;
            }
        }
        return pieces;
    }
};

// Every row of every matrix is in one slab, in order, and cuts are at multiples of WEIGHT_ROW_GROUP.
void expect_whole(const Cut &cut) {
    std::vector<uint32_t> next(cut.matrices.size());
    for (uint32_t index = 0; index < cut.slabs; index++) {
        const std::vector<row_range> rows = cut.slab(index);
        for (size_t i = 0; i < rows.size(); i++) {
            if (rows[i].count > 0) {
                EXPECT_EQ(rows[i].first, next[i]);
                EXPECT_EQ(rows[i].first % WEIGHT_ROW_GROUP, 0u);
                next[i] += rows[i].count;
            }
        }
    }
    for (size_t i = 0; i < next.size(); i++) {
        EXPECT_EQ(next[i], cut.matrices[i].rows) << "matrix " << i;
    }
}

TEST(LayoutCut, LosesNothingWhateverTheShapes) {
    std::mt19937 random(5);
    for (int round = 0; round < 3000; round++) {
        Cut cut;
        cut.slabs = 1 + random() % 16;
        cut.vectors = random() % 3 * 64 * (random() % 200);
        for (uint32_t i = 0, count = 1 + random() % 8; i < count; i++) {
            cut.matrices.push_back(
                {static_cast<uint32_t>(random() % 5 * (random() % 300)), size_t{64} * (1 + random() % 400)});
        }
        SCOPED_TRACE(round);
        expect_whole(cut);
    }
}

// 13 B parameters in f16, and a small model whose matrices are few groups: 64 bytes a row and 32 columns, say.
const std::vector<cut_matrix> LLAMA_13B = {{5120, 163840},  {5120, 163840},  {5120, 163840}, {5120, 163840},
                                           {13824, 163840}, {13824, 163840}, {5120, 442368}};
const std::vector<cut_matrix> SMALL = {{576, 5760},  {192, 5760},  {192, 5760}, {576, 5760},
                                       {1536, 5760}, {1536, 5760}, {576, 15360}};

TEST(LayoutCut, SlabsAreAlike) {
    for (uint32_t slabs : {2u, 3u, 4u, 7u, 8u, 16u}) {
        const Cut large = {LLAMA_13B, 2 * 5120 * 4, slabs};
        EXPECT_LE(large.largest(), (large.total() + slabs - 1) / slabs + 2 * 163840) << slabs;
        const Cut small = {SMALL, 2 * 576 * 4, slabs};
        EXPECT_LE(small.largest(), (small.total() + slabs - 1) / slabs + 2 * 5760) << slabs;
    }
}

TEST(LayoutCut, MatricesAreInFewPieces) {
    for (uint32_t slabs : {1u, 2u, 4u, 16u}) {
        const Cut cut = {LLAMA_13B, 2 * 5120 * 4, slabs}; // one piece each, one more at each cut, and one for each slab
        EXPECT_LE(cut.pieces(), 6 + (slabs - 1) + slabs) << slabs;
    }
}

} // namespace
