/* Parameters of the kernels: one struct a kernel, passed by value. Rust binds this file with bindgen,
 * so it is C. Device pointers are 64-bit integers; all sizes are in elements, matrices row-major. */
#ifndef QLORA_PARAMS_H
#define QLORA_PARAMS_H

#include <stdint.h>

/* Element types of a tensor. NF4 and FP4 are blocks of 4-bit codes, see BlockScales; f16 is that of weights before
 * they are quantised, and nothing else takes it. */
enum { DTYPE_F32 = 0, DTYPE_BF16 = 1, DTYPE_4BIT = 2, DTYPE_F16 = 3 };

typedef struct {
    uint64_t data;
    uint32_t dtype;
    uint32_t reserved;
} Tensor;

/* Scales of 4-bit blocks. `codes` is 0 for plain f32 `absmax`; else absmax of block b is
 * map[codes[b]] * absmax[b >> log2_nested] + offset, two roundings. */
typedef struct {
    uint64_t absmax;
    uint64_t codes;
    uint64_t map;
    float offset;
    uint32_t log2_block;
    uint32_t log2_nested;
    uint32_t reserved;
    float codebook[16];
} BlockScales;

/* Inverted dropout drawn by Philox; `threshold` 0 keeps everything. */
typedef struct {
    uint64_t key;
    uint64_t stream;
    uint32_t threshold;
    float keep;
} DropoutMask;

typedef struct {
    Tensor x, y, out; /* y.data 0: none */
    uint64_t len;
} AddParams;

/* out[i, :] = [out[i, :] +] sums[i, :] + bias, rounded once; rows of `out` lie `out_stride` elements apart. */
typedef struct {
    Tensor sums, out, bias; /* bias.data 0: none */
    uint64_t cols, out_stride;
    uint32_t accumulate;
    uint32_t reserved;
} RoundRowsParams;

typedef struct {
    Tensor x;
    uint64_t len;
    float factor;
    uint32_t reserved;
} ScaleParams;

/* out[i, :] = table[ids[i], :] */
typedef struct {
    Tensor table, out;
    uint64_t ids;
    uint64_t rows, cols;
} GatherParams;

/* out[ids[i], :] = x[i, :] */
typedef struct {
    Tensor x, out;
    uint64_t ids;
    uint64_t rows, cols;
} ScatterParams;

/* Where there is a sum, x + added is stored in it and takes the place of x. */
typedef struct {
    Tensor x, weight, y;
    Tensor added, sum;
    uint64_t inv_rms;
    uint32_t rows, cols;
    float eps;
    uint32_t reserved;
} RmsNormParams;

typedef struct {
    Tensor x, weight, dy, dx;
    uint64_t inv_rms;
    uint32_t rows, cols;
    uint32_t accumulate;
    uint32_t reserved;
} RmsNormBackwardParams;

typedef struct {
    Tensor x, out;
    uint64_t cos, sin, positions;
    uint64_t tokens;
    uint32_t heads, head_dim;
    float sign;
    uint32_t reserved;
} RopeParams;

enum { ACTIVATION_SILU = 0, ACTIVATION_GELU_TANH = 1 };

typedef struct {
    Tensor gate, up, out;
    uint64_t len;
    uint32_t activation;
    uint32_t reserved;
} GatedParams;

/* `gate` and `up` become their gradients. */
typedef struct {
    Tensor gate, up, d_out;
    uint64_t len;
    uint32_t activation;
    uint32_t reserved;
} GatedBackwardParams;

/* Element (i, j) of a factor lies row * i + col * j elements into its tensor. */
typedef struct {
    Tensor tensor;
    uint64_t row, col;
} Factor;

enum { MASK_NONE = 0, MASK_A = 1, MASK_B = 2, MASK_EXTRA = 3 };

/* out[m, n] = [out +] alpha . A[m, k] . B[k, n] + mask(extra_alpha . EA[m, extra_k] . EB[extra_k, n]) + bias[n],
 * summed in f32 and rounded once. The mask of A or B is that of the element's place in its tensor,
 * the mask of the extra product that of its place in `out`. */
typedef struct {
    Factor a, b, extra_a, extra_b;
    Tensor out, bias; /* bias.data 0: none */
    BlockScales scales; /* of whichever factor is 4-bit */
    DropoutMask mask;
    uint64_t m, n, k, extra_k;
    uint64_t out_stride; /* elements from a row of `out` to the next */
    float alpha, extra_alpha;
    uint32_t masked;
    uint32_t accumulate;
} MatmulParams;

/* Most products of one launch. */
enum { TILE_MATMUL_PRODUCTS = 3 };

/* The tensor-core product of bf16 `x` [m, reduction] with a weight [n, k], 4-bit or bf16: x . W^T [m, n] forward,
 * x . W [m, k] backward. Rows of x lie `x_stride` elements apart, a multiple of 8; elements between the reduction
 * and its next multiple of 8 are zeros. Rows of `out` lie `out_stride` elements apart. k is a multiple of 64 for
 * 4-bit weights, whose blocks have at least 64 elements, else of 8. The extra product is that of SplitParams,
 * `extra_k` wide; `mask` 0 leaves its `dropout` out. Tiles are numbered over all products of the launch, this one's
 * from `first_tile` on. */
typedef struct {
    uint64_t x, weight;
    uint64_t extra_a, extra_b;
    Tensor out, bias; /* bias.data 0: none */
    BlockScales scales;
    DropoutMask dropout;
    uint32_t m, n, k, x_stride, out_stride, extra_k;
    uint32_t first_tile;
    uint32_t mask;
    uint32_t accumulate;
    uint32_t reserved;
} TileMatmulProduct;

/* Products that have no tiles in this launch begin behind its last. Tiles of 128 rows from number `halved` on are
 * two blocks each. */
typedef struct {
    TileMatmulProduct products[TILE_MATMUL_PRODUCTS];
    uint32_t halved;
    uint32_t reserved;
} TileMatmulParams;

/* Columns of a tile, and the dynamic shared memory for tiles of 128 and of 64 rows. */
enum {
    TILE_MATMUL_COLS = 128,
    NF4_MATMUL_SHARED_128 = 95232,
    NF4_MATMUL_SHARED_64 = 70656,
    DENSE_MATMUL_SHARED_128 = 98304,
    DENSE_MATMUL_SHARED_64 = 73728
};

/* out bf16 [len] = a 4-bit weight; len is a multiple of 8. */
typedef struct {
    uint64_t packed, out;
    BlockScales scales;
    uint64_t len;
} DequantizeParams;

/* An adapter's product with bf16 `x` [m, k], k a multiple of 8. lora_shrink: out[m, j] = alpha . sum over i of
 * x[m, i] . factor(j, i), f32 [m, rank]. lora_gradient: out(j, i) += alpha . sum over m of factor[m, j] . x[m, i],
 * with `factor` [m, rank]. Element (j, i) lies rank_step * j + k_step * i elements into its tensor. `masked` drops
 * elements of x; what is kept is not scaled. */
typedef struct {
    Tensor factor;
    uint64_t x, out;
    DropoutMask mask;
    uint64_t rank_step, k_step;
    uint32_t m, k, rank;
    uint32_t masked;
    float alpha;
    uint32_t reserved;
} LoraParams;

/* Most rows of x, and most warps of a block, of the products of few rows. */
enum { MATVEC_ROWS = 8, MATVEC_WARPS = 8 };

/* out[m, n] = x[m, k] . W[n, k]^T + extra_alpha . EA[m, extra_k] . EB[n, extra_k]^T + bias[n], for few rows m,
 * summed in f32 and rounded once. Rows of x and W begin at multiples of 16 bytes: k is a multiple of 8, of
 * 64 for nf4_matvec, whose blocks have at least 64 elements. */
typedef struct {
    Tensor x, weight, out;
    Tensor bias; /* data 0: none */
    Tensor extra_a, extra_b;
    BlockScales scales;
    uint32_t m, n, k, extra_k;
    float extra_alpha;
    uint32_t reserved;
} MatvecParams;

/* Element (i, j) of [outer, rank], `outer_step` * i + `rank_step` * j elements into its tensor. */
typedef struct {
    Tensor from;
    uint64_t out;
    uint64_t outer, outer_step, rank_step;
    float factor;
    uint32_t ranks_first; /* `out` is [width, outer] rather than [outer, width] */
} SplitFactor;

/* The factors of a product over `rank` as bf16 factors over `width` >= 3 rank that give it almost in f32:
 * [high, low, high] . [high, high, low] of value = high + low, then zeros. `factor` multiplies the value. */
typedef struct {
    SplitFactor factors[2];
    uint32_t rank, width;
} SplitParams;

/* Queries, or keys, of one block of the tensor-core attention kernels. */
enum { FLASH_ROWS = 64 };

/* Sequences as in ops::Sequences; window 0 and softcap 0 mean none. */
typedef struct {
    uint64_t q_start, k_start, k_len;
    uint32_t count;
    uint32_t q_tokens, k_tokens;
    uint32_t heads, kv_heads, head_dim;
    uint32_t window;
    float scale, softcap;
    uint32_t reserved;
} AttentionShape;

typedef struct {
    AttentionShape shape;
    Tensor q, k, v, o;
    uint64_t lse;
} AttentionParams;

typedef struct {
    AttentionShape shape;
    Tensor q, k, v, o, d_o, dq, dk, dv;
    uint64_t lse, delta;
} AttentionBackwardParams;

/* One query a sequence, whose keys are cut into `splits` parts of `split_keys`, counted from the first that the
 * query sees. With several, part s of row i of lse writes its sums to row i * splits + s of `sums`
 * f32 [q_tokens * heads * splits, head_dim], their maximum and total to `totals` f32 [.., 2]. */
typedef struct {
    AttentionParams attention;
    uint64_t sums, totals;
    uint32_t splits, split_keys;
} DecodeAttentionParams;

/* Threads of a block of decode_attention, and the most queries that it takes. */
enum { DECODE_THREADS = 128, DECODE_QUERIES = 8 };

/* Softmax and cross-entropy of each row of logits, f32 [rows, vocab], `stride` elements apart, a multiple of 4;
 * token_loss[ids[row]] receives the loss. With `gradient`, grad_scale * (softmax - onehot) takes the row's place,
 * in that type and from the row's beginning on; behind it, zeros to the next multiple of 8 elements. */
enum { GRADIENT_NONE = 0, GRADIENT_F32 = 1, GRADIENT_BF16 = 2 };

typedef struct {
    uint64_t logits, labels, ids, token_loss;
    uint32_t rows, vocab, stride;
    uint32_t gradient;
    float grad_scale;
    uint32_t reserved;
} CrossEntropyParams;

/* Packed codes and f32 absmax of blocks of `block` elements. A value in units of absmax gets code r, where r
 * midpoints are below it and `ascending` has code r in bits 4r to 4r + 3. */
typedef struct {
    Tensor x;
    uint64_t len;
    uint64_t packed, absmax;
    uint64_t ascending;
    float midpoints[15];
    uint32_t block;
} QuantizeParams;

/* partial[block] = sum of squares of the block's part. */
typedef struct {
    Tensor x;
    uint64_t len;
    uint64_t partial;
} SquaredNormParams;

enum { ADAMW_TENSORS = 32 };

typedef struct {
    float beta1, beta2, eps, grad_scale;
    float decay, step_size, v_root_correction;
    uint32_t reserved;
} AdamWFactors;

typedef struct {
    uint64_t param, grad, m, v;
    uint64_t len;
} AdamWEntry;

/* The blocks of the grid's x go over a tensor, its y over the tensors. */
typedef struct {
    AdamWEntry tensors[ADAMW_TENSORS];
    AdamWFactors factors;
} AdamWParams;

enum { MOMENT8_BLOCK = 256 };

/* Value i is map[codes[i]] * absmax[i / MOMENT8_BLOCK]. */
typedef struct {
    uint64_t codes, absmax;
} Moment8;

typedef struct {
    uint64_t param, grad;
    Moment8 m, v;
    uint64_t len;
} AdamW8bitEntry;

/* `maps`: of m and then of v, 256 values by code and 256 nodes of the search tree of nf4::moment8, f32. */
typedef struct {
    AdamW8bitEntry tensors[ADAMW_TENSORS];
    AdamWFactors factors;
    uint64_t maps;
} AdamW8bitParams;

#endif
