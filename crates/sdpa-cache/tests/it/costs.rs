//! What an append costs, as the interpreter counts it: it is a copy.

use sdpa_cache::{Append, AppendTensors};
use sdpa_core::{Counters, Device as _, Interpreter, Layout};

const TOKENS: usize = 64;
const HEADS: usize = 8;

fn counted(head_dim: usize, layout: Layout) -> Counters {
    let device = Interpreter::new();
    let append = Append::new(TOKENS, HEADS, head_dim, 8, 16).cache_layout(layout).build().unwrap();
    let zeros = |count: usize| device.upload(&vec![0; 2 * count]).unwrap();
    let new = || zeros(TOKENS * HEADS * head_dim);
    let cache = || zeros(append.slots() * HEADS * head_dim);
    let slots =
        device.upload(&(0..TOKENS as i64).flat_map(|slot| (2 * slot).to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let (new_key, new_value, key, value) = (new(), new(), cache(), cache());
    append.prepare(&device).unwrap().forward(&AppendTensors::new(&new_key, &new_value, &slots, &key, &value)).unwrap();
    device.take_reports().counters
}

/// Each byte is read once and written once, by whole sectors, and a warp has little to do besides.
#[test]
fn an_append_is_a_copy() {
    for (head_dim, layout) in [(64, Layout::Bhld), (128, Layout::Blhd), (128, Layout::Bhld), (256, Layout::Blhd)] {
        let counters = counted(head_dim, layout);
        let bytes = (2 * TOKENS * HEADS * head_dim * 2) as u64;
        // A lane copies 16 bytes of a key and as many of a value.
        let warps = bytes / 1024;
        assert_eq!(counters.global_store_bytes, bytes, "{head_dim} {layout:?}");
        assert_eq!(32 * counters.global_store_sectors, bytes, "{head_dim} {layout:?}");
        // And each warp reads its token's slot.
        assert_eq!(32 * (counters.global_load_sectors - warps), bytes, "{head_dim} {layout:?}");
        let instructions = counters.total_warp_instructions();
        assert!(instructions <= 110 * warps, "{instructions} instructions of {warps} warps: {head_dim} {layout:?}");
    }
}
