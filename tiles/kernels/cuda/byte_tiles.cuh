// A tile of bytes turned in shared memory: 4 x 4 of them by permutations, 16 at once out again.
//
// A thread has PATCH_COLS adjacent columns of four rows and writes each column as a word.  The column
// of a tile is a row of `pitch` bytes in shared memory, and each PATCH_COLS of them are followed by SKEW
// chunks of 16 bytes: where the threads of a warp have neighbouring patches, SKEW x 4 of them below one
// another, their words fall into 32 different banks.
//
// Macros: PATCH_COLS, SKEW; given by the file that includes this one, as are DEVICE and permute().

// Rows of four bytes to columns, in place.
DEVICE void turn_bytes(u32 *words) {
    const u32 left = permute(words[0], words[1], 0x5140), right = permute(words[0], words[1], 0x7362);
    const u32 left_below = permute(words[2], words[3], 0x5140);
    const u32 right_below = permute(words[2], words[3], 0x7362);
    words[0] = permute(left, left_below, 0x5410), words[1] = permute(left, left_below, 0x7632);
    words[2] = permute(right, right_below, 0x5410), words[3] = permute(right, right_below, 0x7632);
}

// Where column `col` of a tile begins, in bytes.
DEVICE u32 turned_place(u32 col, u32 pitch) { return col * pitch + col / PATCH_COLS * (16 * SKEW); }

// Four rows from `row` on of PATCH_COLS columns from `col` on: rows[r][w] is word w of row r.
DEVICE void keep_turned(u8 *tile, u32 row, u32 col, u32 pitch, const u32 rows[4][PATCH_COLS / 4]) {
    u8 *place = tile + turned_place(col, pitch) + row;
#pragma unroll
    for (int w = 0; w < PATCH_COLS / 4; ++w) {
        u32 words[4] = {rows[0][w], rows[1][w], rows[2][w], rows[3][w]};
        turn_bytes(words);
#pragma unroll
        for (int k = 0; k < 4; ++k) *(u32 *)(place + (4 * w + k) * pitch) = words[k];
    }
}

// All columns of a tile of `tile_rows` x `tile_cols` whose corner is (row, col) of a rows x cols matrix,
// to the rows of the transposed matrix, which lie `pitch` bytes apart; called by `threads` threads.  `aligned`: whole chunks of 16 bytes
// lie inside or outside, and on 16-byte boundaries; `even`: all lie inside.
DEVICE void store_turned(const u8 *tile, u8 *out, i64 row, i64 col, i64 rows, i64 cols, i64 pitch,
                         u32 tile_rows, u32 tile_cols, u32 threads, bool aligned, bool even) {
    const u32 across = tile_rows / 16, count = across * tile_cols;
    const i64 left_rows = rows - row, left_cols = cols - col;
    out += col * pitch + row;
#pragma unroll
    for (u32 first = 0; first < count; first += threads) {
        const u32 chunk = first + threadIdx.x, down = chunk / across, right = chunk % across * 16;
        if (count % threads && chunk >= count) continue;
        if (!even && (down >= left_cols || right >= left_rows)) continue;
        const u8 *from = tile + turned_place(down, tile_rows) + right;
        u8 *to = out + (down * pitch + right);
        if (aligned) {
            *(uint4 *)to = *(const uint4 *)from;
        } else {
            for (int k = 0; k < 16; ++k)
                if (right + k < left_rows) to[k] = from[k];
        }
    }
}
