/* Attention by evo-sdpa's kernels. Written by cbindgen from src: a test keeps it so. */

#ifndef SDPA_H
#define SDPA_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 Element type f16.
 */
#define SDPA_F16 0

/*
 Element type bf16.
 */
#define SDPA_BF16 1

/*
 Every query sees every key.
 */
#define SDPA_FULL 0

/*
 The last query sees every key: FlashAttention's causal mask.
 */
#define SDPA_CAUSAL 1

/*
 The first query sees the first key: PyTorch's `is_causal`.
 */
#define SDPA_CAUSAL_TOP_LEFT 2

/*
 Contiguous `[batch, heads, length, head_dim]`.
 */
#define SDPA_BHLD 0

/*
 Contiguous `[batch, length, heads, head_dim]`.
 */
#define SDPA_BLHD 1

/*
 Keys and values of the problem's dtype.
 */
#define SDPA_KV_OF_DTYPE 0

/*
 Keys and values in OCP FP8 E4M3 (`torch.float8_e4m3fn`), with one scale for all keys and one for all values.
 */
#define SDPA_KV_E4M3 1

/*
 The same with a scale for each key head.
 */
#define SDPA_KV_E4M3_PER_HEAD 2

/*
 A side of a window without an end.
 */
#define SDPA_UNBOUNDED -1

/*
 Flag of [`sdpa_prepare`]: query heads have sinks.
 */
#define SDPA_SINKS 1

/*
 Flag of [`sdpa_prepare`]: query heads have slopes.
 */
#define SDPA_SLOPES 2

/*
 Flag of [`sdpa_prepare`]: sequences of a dense batch use a number of their keys.
 */
#define SDPA_KEY_LENGTHS 4

/*
 How a call went. [`sdpa_last_error`] has the words.
 */
typedef enum SdpaStatus {
  /*
   As asked.
   */
  SdpaOk = 0,
  /*
   An argument is wrong: a null pointer, a shape that makes no problem, a tensor that does not fit it.
   */
  SdpaInvalid = 1,
  /*
   No kernel takes the problem on this device.
   */
  SdpaUnsupported = 2,
  /*
   The device or its driver refused, or failed.
   */
  SdpaDeviceFailed = 3,
  /*
   A fault of this library.
   */
  SdpaBug = 4,
} SdpaStatus;

/*
 A device and the stream that its work is queued on.
 */
typedef struct SdpaDevice SdpaDevice;

/*
 A problem made ready on a device.
 */
typedef struct SdpaPrepared SdpaPrepared;

/*
 An append made ready on a device.
 */
typedef struct SdpaPreparedAppend SdpaPreparedAppend;

/*
 What to attend over. [`sdpa_problem`] fills in the defaults; change what differs.
 */
typedef struct SdpaProblem {
  /*
   Independent sequences; 1 if they are packed.
   */
  size_t batch;
  /*
   Query heads.
   */
  size_t heads_q;
  /*
   Key and value heads, a divisor of the query heads.
   */
  size_t heads_kv;
  /*
   Queries a head; of all sequences together if they are packed.
   */
  size_t len_q;
  /*
   Keys and values a head; of all sequences together if they are packed.
   */
  size_t len_kv;
  /*
   Elements of a query and a key: a multiple of 8 up to 256.
   */
  size_t head_dim;
  /*
   `SDPA_F16` or `SDPA_BF16`.
   */
  uint32_t dtype;
  /*
   `SDPA_FULL`, `SDPA_CAUSAL` or `SDPA_CAUSAL_TOP_LEFT`.
   */
  uint32_t mask;
  /*
   `SDPA_BHLD` or `SDPA_BLHD`: strides of every tensor whose `strides` are 0.
   */
  uint32_t layout;
  /*
   Factor on query · key; NaN for 1/√head_dim.
   */
  float scale;
  /*
   Of query, key, value and output: elements between two batches, two heads, two rows. All 0 for the layout's.
   */
  int64_t strides[4][3];
  /*
   Packed sequences, `[total, heads, head_dim]`; 0 for a dense batch.
   */
  size_t sequences;
  /*
   Most queries of a packed sequence.
   */
  size_t longest_q;
  /*
   Most keys of a packed sequence.
   */
  size_t longest_kv;
  /*
   Keys before the diagonal that a query sees, or `SDPA_UNBOUNDED`.
   */
  int64_t window_left;
  /*
   Keys behind the diagonal that a query sees, or `SDPA_UNBOUNDED`.
   */
  int64_t window_right;
  /*
   Scores become softcap · tanh(score / softcap); 0 for none.
   */
  float softcap;
  /*
   Elements of a value and of a row of the output: a multiple of 8 up to 256; 0 for as many as `head_dim`.
   */
  size_t value_dim;
  /*
   How keys and values are stored: `SDPA_KV_OF_DTYPE`, `SDPA_KV_E4M3` or `SDPA_KV_E4M3_PER_HEAD`.
   */
  uint32_t kv_storage;
  /*
   Keys of a page, 8 to 256, where keys and values lie in pages; 0 where they do not. Then `len_kv` is the most keys of a
   sequence, `layout` and `strides` of key and value are of `[pages, heads_kv, page, head_dim]`, and of packed sequences the
   queries alone are packed.
   */
  size_t page;
  /*
   Pages that the tensors of keys and values hold.
   */
  size_t pages;
  /*
   Entries from one sequence's row of the block table to the next one's; 0 if the table is lists behind one another.
   */
  size_t table_width;
  /*
   Entries of all lists together, or more.
   */
  size_t table_entries;
} SdpaProblem;

/*
 Device addresses of the tensors of one pass. NULL for those that are not wanted or not asked for.
 */
typedef struct SdpaTensors {
  /*
   `[batch, heads_q, len_q, head_dim]`, strided as the problem says.
   */
  const void *query;
  /*
   `[batch, heads_kv, len_kv, head_dim]`.
   */
  const void *key;
  /*
   `[batch, heads_kv, len_kv, value_dim]`.
   */
  const void *value;
  /*
   `[batch, heads_q, len_q, value_dim]`; overlaps none of the others.
   */
  void *output;
  /*
   Natural-log sum of exp, `[batch, heads_q, len_q]` f32; may be NULL.
   */
  void *lse;
  /*
   Where each packed sequence's queries begin, `[sequences + 1]` of 32 bits.
   */
  const void *cu_seqlens_q;
  /*
   The same of its keys.
   */
  const void *cu_seqlens_k;
  /*
   A logit without a value for each query head, f32; needs `SDPA_SINKS` in `sdpa_prepare`'s `extensions`.
   */
  const void *sinks;
  /*
   A slope for each query head, f32; needs `SDPA_SLOPES`.
   */
  const void *slopes;
  /*
   Keys that each sequence uses, `[sequences]` of 32 bits: of pages, or of a dense batch with `SDPA_KEY_LENGTHS`. Where the
   block table is lists, how many keys the last page of each holds.
   */
  const void *key_lengths;
  /*
   The pages of each sequence in order, of 32 bits: `[sequences, table_width]`, or lists. What follows a sequence's pages
   is never read; an entry that is read must be less than `pages`, which kernels do not check.
   */
  const void *block_table;
  /*
   Where each sequence's list begins in the block table, `[sequences + 1]` of 32 bits; NULL if it has rows.
   */
  const void *page_starts;
  /*
   What keys in e4m3 are multiplied by: f32, 1 or `heads_kv` of them, on the device; positive and finite.
   */
  const void *key_scale;
  /*
   The same of values.
   */
  const void *value_scale;
} SdpaTensors;

/*
 What is appended to which caches. `sdpa_append_defaults` fills in the defaults; change what differs.
 */
typedef struct SdpaAppend {
  /*
   New tokens.
   */
  size_t tokens;
  /*
   Key and value heads of each token.
   */
  size_t heads_kv;
  /*
   Elements of a key.
   */
  size_t head_dim;
  /*
   Elements of a value; 0 for as many as `head_dim`.
   */
  size_t value_dim;
  /*
   Blocks of the caches; of contiguous caches, sequences.
   */
  size_t blocks;
  /*
   Keys of a block; of contiguous caches, the most keys of a sequence.
   */
  size_t block_size;
  /*
   `SDPA_BHLD` for caches `[blocks, heads_kv, block_size, head_dim]`, `SDPA_BLHD` for `[blocks, block_size, heads_kv,
   head_dim]`: strides of the caches whose `cache_strides` are 0.
   */
  uint32_t layout;
  /*
   Of new keys and new values: elements between two tokens and two heads. All 0 for contiguous `[tokens, heads_kv, head_dim]`.
   */
  int64_t new_strides[2][2];
  /*
   Of key cache and value cache: elements between two blocks, two heads, two places. All 0 for the layout's.
   */
  int64_t cache_strides[2][3];
} SdpaAppend;

/*
 Device addresses of the tensors of one append. Elements are of 2 bytes, f16 or bf16, the same in all.
 */
typedef struct SdpaAppendTensors {
  /*
   New keys, `[tokens, heads_kv, head_dim]`, strided as the append says.
   */
  const void *key;
  /*
   New values, `[tokens, heads_kv, value_dim]`.
   */
  const void *value;
  /*
   The slot of each token, `[tokens]` of 64 bits: block · block_size + place in the block. Negative ones, and those beyond the
   cache, are skipped. They differ from one another.
   */
  const int64_t *slot_mapping;
  /*
   Written at the slots, and nowhere else.
   */
  void *key_cache;
  /*
   The same of values.
   */
  void *value_cache;
} SdpaAppendTensors;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Why this thread's last failing call failed; empty before. Valid until the thread's next failing call.
 */
const char *sdpa_last_error(void);

/*
 Opens a device: `which` is "cuda", "interpreter" or "auto", or NULL for what the variable `SDPA_DEVICE` says.

 # Safety
 `which` is NULL or a C string; `device` may be written.
 */
enum SdpaStatus sdpa_open(const char *which,
                          struct SdpaDevice **device);

/*
 Uses a stream of your program: work is queued behind what you queued there. `stream` is a `CUstream` (or `cudaStream_t`) of the
 primary context of the device with this ordinal; NULL is the default stream. It is not destroyed by `sdpa_close`.

 # Safety
 The stream is one, and stays one until the device and everything prepared on it are gone; `device` may be written.
 */
enum SdpaStatus sdpa_open_stream(uint32_t ordinal,
                                 void *stream,
                                 struct SdpaDevice **device);

/*
 Closes a device. What was prepared on it keeps it alive until it is freed, too. NULL is fine.

 # Safety
 It came from `sdpa_open` or `sdpa_open_stream`, and is not used again.
 */
void sdpa_close(struct SdpaDevice *device);

/*
 Waits until everything queued on the device is done.

 # Safety
 `device` is NULL or open.
 */
enum SdpaStatus sdpa_synchronize(const struct SdpaDevice *device);

/*
 Self-attention of this shape: f16, no mask, contiguous, scale 1/√head_dim.
 */
struct SdpaProblem sdpa_problem(size_t batch, size_t heads, size_t length, size_t head_dim);

/*
 Plans a problem for the fastest kernels that take it, loads them and allocates what they need. `extensions` is 0 or a sum of
 `SDPA_SINKS`, `SDPA_SLOPES` and `SDPA_KEY_LENGTHS`.

 # Safety
 `device` is NULL or open; `asked` is NULL or a problem; `prepared` may be written.
 */
enum SdpaStatus sdpa_prepare(const struct SdpaDevice *device,
                             const struct SdpaProblem *asked,
                             uint32_t extensions,
                             struct SdpaPrepared **prepared);

/*
 Frees what `sdpa_prepare` made; work that is queued with it is done first. NULL is fine.

 # Safety
 It came from `sdpa_prepare`, and is not used again.
 */
void sdpa_release(struct SdpaPrepared *prepared);

/*
 Queues attention over these tensors, and returns. The device's stream orders it.

 # Safety
 `prepared` is NULL or came from `sdpa_prepare`; `tensors` is NULL or holds addresses of device memory as large as the problem's
 shapes and strides need, which stays allocated until the work is done.
 */
enum SdpaStatus sdpa_forward(const struct SdpaPrepared *prepared,
                             const struct SdpaTensors *tensors);

/*
 Allocates device memory. Memory of your own serves as well, on a GPU; the interpreter has none but this.

 # Safety
 `device` is NULL or open; `address` may be written.
 */
enum SdpaStatus sdpa_allocate(const struct SdpaDevice *device,
                              size_t bytes,
                              void **address);

/*
 Frees what `sdpa_allocate` gave. NULL is fine.

 # Safety
 `device` is NULL or open.
 */
enum SdpaStatus sdpa_free(const struct SdpaDevice *device, void *address);

/*
 Copies to memory of `sdpa_allocate`; done when it returns.

 # Safety
 `device` is NULL or open; `from` has `bytes` bytes.
 */
enum SdpaStatus sdpa_write(const struct SdpaDevice *device,
                           void *to,
                           const void *from,
                           size_t bytes);

/*
 Copies from memory of `sdpa_allocate`, behind everything that is queued; done when it returns.

 # Safety
 `device` is NULL or open; `to` has room for `bytes` bytes.
 */
enum SdpaStatus sdpa_read(const struct SdpaDevice *device,
                          void *to,
                          const void *from,
                          size_t bytes);

/*
 Keys and values of one width, contiguous, to contiguous caches `[blocks, heads_kv, block_size, head_dim]`.
 */
struct SdpaAppend sdpa_append_defaults(size_t tokens,
                                       size_t heads_kv,
                                       size_t head_dim,
                                       size_t blocks,
                                       size_t block_size);

/*
 Loads the kernels of an append, so that `sdpa_append` only launches.

 # Safety
 `device` is NULL or open; `asked` is NULL or an append; `prepared` may be written.
 */
enum SdpaStatus sdpa_append_prepare(const struct SdpaDevice *device,
                                    const struct SdpaAppend *asked,
                                    struct SdpaPreparedAppend **prepared);

/*
 Frees what `sdpa_append_prepare` made. NULL is fine.

 # Safety
 It came from `sdpa_append_prepare`, and is not used again.
 */
void sdpa_append_release(struct SdpaPreparedAppend *prepared);

/*
 Queues the copy of new keys and values to their slots, and returns. Attention that is queued behind it reads them.

 # Safety
 `prepared` is NULL or came from `sdpa_append_prepare`; `tensors` is NULL or holds addresses of device memory as large as the
 append's shapes and strides need, which stays allocated until the work is done.
 */
enum SdpaStatus sdpa_append(const struct SdpaPreparedAppend *prepared,
                            const struct SdpaAppendTensors *tensors);

/*
 Keys and values of one width, contiguous, to contiguous caches `[blocks, heads_kv, block_size, head_dim]`.
 */
struct SdpaAppend sdpa_append_defaults(size_t tokens,
                                       size_t heads_kv,
                                       size_t head_dim,
                                       size_t blocks,
                                       size_t block_size);

/*
 Loads the kernels of an append, so that `sdpa_append` only launches.

 # Safety
 `device` is NULL or open; `asked` is NULL or an append; `prepared` may be written.
 */
enum SdpaStatus sdpa_append_prepare(const struct SdpaDevice *device,
                                    const struct SdpaAppend *asked,
                                    struct SdpaPreparedAppend **prepared);

/*
 Frees what `sdpa_append_prepare` made. NULL is fine.

 # Safety
 It came from `sdpa_append_prepare`, and is not used again.
 */
void sdpa_append_release(struct SdpaPreparedAppend *prepared);

/*
 Queues the copy of new keys and values to their slots, and returns. Attention that is queued behind it reads them.

 # Safety
 `prepared` is NULL or came from `sdpa_append_prepare`; `tensors` is NULL or holds addresses of device memory as large as the
 append's shapes and strides need, which stays allocated until the work is done.
 */
enum SdpaStatus sdpa_append(const struct SdpaPreparedAppend *prepared,
                            const struct SdpaAppendTensors *tensors);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SDPA_H */
