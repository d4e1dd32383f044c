// Panels of packed weights in shared memory, and how they come there.
//
// A panel is PANEL columns, 64 bytes, of each row of weights; those of a tile's rows are contiguous
// in device memory and come in one copy, beside them scales and zero points of their groups.
//
// Macros: WEIGHT, SCALE, SCALE_ITEM (weight_codes.cuh), GROUP (columns under one scale, 0: none),
// BLOCK_N (rows of a tile).

#define HALVES (WEIGHT <= 2 ? 2 : 1)  // codes in a byte
#define PANEL_BYTES 64                // of a row
#define PANEL (64 * HALVES)           // columns
#if GROUP > 0 && GROUP < PANEL
#define PER_PANEL (PANEL / GROUP)  // scales of a row
#else
#define PER_PANEL 1
#endif
#define PANELS_PER_SCALE (GROUP > PANEL ? GROUP / PANEL : 1)
#define PLACE(column) ((column) / (PANEL / PER_PANEL))  // of a column's scale among its row's
#define W_BYTES (BLOCK_N * PANEL_BYTES)
#define ZERO_ITEM (WEIGHT == 1 ? 1 : 0)
#define SCALE_SLOT ((BLOCK_N * PER_PANEL * SCALE_ITEM + 127) / 128 * 128)
#define ZERO_SLOT ((BLOCK_N * PER_PANEL * ZERO_ITEM + 127) / 128 * 128)
// Of a row of a panel with all that belongs to it.
#define PANEL_ROW_BYTES (PANEL_BYTES + PER_PANEL * (SCALE_ITEM + ZERO_ITEM))

// Asks for a panel of a tile whose first row is `left` of N.
//
// row: of the panel's first one, of all rows of panels in a row.
__device__ __forceinline__ void load_panel(u32 w, u32 scales, u32 zeros, u32 bar, const u8 *codes,
                                           const u8 *scale, const u8 *zero, i64 row, int rows,
                                           int left, int panel, int n) {
    copy_bulk(w, codes + row * PANEL_BYTES, rows * PANEL_BYTES, bar);
#if GROUP > 0
    const i64 word =
        PANELS_PER_SCALE > 1 ? (i64)(panel / PANELS_PER_SCALE) * n + left : row * PER_PANEL;
    copy_bulk(scales, scale + word * SCALE_ITEM, rows * PER_PANEL * SCALE_ITEM, bar);
#endif
#if ZERO_ITEM
    copy_bulk(zeros, zero + word, rows * PER_PANEL, bar);
#endif
}

// The pair that takes the magic number and a row's zero point away.
__device__ __forceinline__ u32 load_less(u32 zeros, int at) {
    return ZERO_ITEM ? load_shared_u8(zeros + at) * 0x10001u | LESS_MAGIC : 0;
}
