// The parameter block of generations that take more than dense attention: what the others take, and
// behind it what extensions ask for. Mirrored by `sdpa_core::ExtensionParams`; a test there reads
// the FIELD_AT lines below and holds both to the same bytes.
#pragma once

#include "machine/params.cuh"

constexpr int UNBOUNDED = 2147483647;  // a side of the window that has no end

struct ExtendedParams : AttentionParams {
    const unsigned* cu_seqlens_q;  // [sequences + 1], where each packed sequence's queries begin
    const unsigned* cu_seqlens_k;  // [sequences + 1], the same of its keys
    const unsigned* key_lengths;   // [batch], keys in use; null where all of len_kv are
    const float* sinks;            // [heads_q]; null where there are none
    const float* slopes;           // [heads_q]; null where there are none
    int sequences;                 // packed ones; 0 for a dense batch
    int top_left;      // 1: the diagonal starts at the first key; 0: it ends at the last
    int window_left;   // keys before the diagonal that a query sees, or UNBOUNDED
    int window_right;  // keys behind it, 0 under a causal mask, or UNBOUNDED
    float softcap;     // scores become softcap · tanh(score / softcap); 0: they stay
    int longest_q;     // most queries of a packed sequence
};

// NVRTC has no offsetof; __INTADDR__ is what its front end makes offsetof of elsewhere.
#define FIELD_AT(field, offset) \
    static_assert(__INTADDR__(&static_cast<ExtendedParams*>(nullptr)->field) == offset, #field)
FIELD_AT(cu_seqlens_q, 192);
FIELD_AT(cu_seqlens_k, 200);
FIELD_AT(key_lengths, 208);
FIELD_AT(sinks, 216);
FIELD_AT(slopes, 224);
FIELD_AT(sequences, 232);
FIELD_AT(top_left, 236);
FIELD_AT(window_left, 240);
FIELD_AT(window_right, 244);
FIELD_AT(softcap, 248);
FIELD_AT(longest_q, 252);
#undef FIELD_AT
static_assert(sizeof(ExtendedParams) == 256, "ExtendedParams");
