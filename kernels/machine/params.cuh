// The one parameter block of every generation: what to attend over, where it lies and how it is
// masked. Mirrored by `sdpa_core::Params`; a test there reads the FIELD_AT lines below and holds
// both to the same bytes.
#pragma once

// A tensor [batch, heads, length, head_dim] whose last dimension is contiguous; strides count
// elements.
struct TensorView {
    void* data;
    long long batch_stride;
    long long head_stride;
    long long row_stride;
};

struct AttentionParams {
    TensorView query;   // [batch, heads_q, len_q, head_dim]
    TensorView key;     // [batch, heads_kv, len_kv, head_dim]
    TensorView value;   // [batch, heads_kv, len_kv, head_dim]
    TensorView output;  // [batch, heads_q, len_q, head_dim]
    float* lse;  // [batch, heads_q, len_q], natural logarithm, contiguous; null where nobody asked
    void* workspace;  // partial results of plans that launch twice; null where the plan needs none
    int batch;
    int heads_q;
    int heads_kv;  // divides heads_q: query head h reads key head h / (heads_q / heads_kv)
    int len_q;
    int len_kv;
    int head_dim;       // a multiple of 8; kernels pad it with zeros to their own tile
    float scale;        // multiplies query · key
    float scale_log2e;  // scale · log2(e): folded into the exponent, since the hardware has exp2
                        // and not exp
    int causal;         // 0: every query sees every key; 1: query i sees keys j <= i + diagonal
    int diagonal;       // len_kv - len_q (bottom-right alignment) or 0 (top-left)
    unsigned* tickets;  // from which persistent blocks draw their next tile; null unless the plan
                        // says that it draws. 0 before every kernel, and left 0 by every kernel
};

// NVRTC has no offsetof; __INTADDR__ is what its front end makes offsetof of elsewhere.
#define FIELD_AT(field, offset) \
    static_assert(__INTADDR__(&static_cast<AttentionParams*>(nullptr)->field) == offset, #field)
FIELD_AT(query, 0);
FIELD_AT(key, 32);
FIELD_AT(value, 64);
FIELD_AT(output, 96);
FIELD_AT(lse, 128);
FIELD_AT(workspace, 136);
FIELD_AT(batch, 144);
FIELD_AT(heads_q, 148);
FIELD_AT(heads_kv, 152);
FIELD_AT(len_q, 156);
FIELD_AT(len_kv, 160);
FIELD_AT(head_dim, 164);
FIELD_AT(scale, 168);
FIELD_AT(scale_log2e, 172);
FIELD_AT(causal, 176);
FIELD_AT(diagonal, 180);
FIELD_AT(tickets, 184);
#undef FIELD_AT
static_assert(sizeof(AttentionParams) == 192, "AttentionParams");
