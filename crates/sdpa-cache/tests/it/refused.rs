//! What is refused, in whole sentences.

use sdpa_cache::{Append, AppendBuilder, AppendError, AppendTensors, Part};
use sdpa_core::{Device as _, Interpreter, Layout, Strides, View};

fn refused(builder: AppendBuilder) -> String {
    builder.build().unwrap_err().to_string()
}

#[test]
fn shapes_and_strides() {
    let append = || Append::new(4, 2, 16, 3, 8);
    assert_eq!(
        refused(Append::new(4, 0, 16, 3, 8)),
        "heads_kv is 0: a token has at least one head, and its keys and values at least one element"
    );
    assert!(matches!(append().value_dim(0).build(), Err(AppendError::Nothing { what: "value_dim" })));
    assert_eq!(
        refused(Append::new(1 << 31, 2, 16, 3, 8)),
        "tokens is 2147483648: at most 2147483647 fit the kernels' 32-bit indices"
    );
    assert!(refused(Append::new(4, 2, 16, 1 << 28, 8)).starts_with("slots of the cache is 2147483648: "));
    assert!(refused(Append::new(4, 2, 16, 0, 1 << 31)).starts_with("keys of a page is 2147483648: "));
    assert!(
        refused(Append::new(4, 1 << 20, 16, 3, 8)).starts_with("elements of a token is 33554432: at most 16776960 ")
    );
    assert_eq!(
        refused(append().new_strides(Part::Value, -1, 16)),
        "new_value's token stride is -1: strides must not be negative"
    );
    let strides = Strides { batch: 256, head: 16, row: 31 };
    assert_eq!(
        refused(append().cache_strides(Part::Key, strides)),
        "key_cache's place stride is 31, but 32 elements lie below it: two of its rows would share memory"
    );
    let strides = Strides { batch: i64::MAX / 8, head: 16, row: 32 };
    assert_eq!(
        refused(append().cache_strides(Part::Value, strides)),
        "value_cache spans more elements than 64 bits count: make it smaller, or check its strides"
    );
}

#[test]
fn tensors() {
    let device = Interpreter::new();
    let append = Append::new(4, 2, 16, 3, 8).cache_layout(Layout::Blhd).build().unwrap();
    let prepared = append.prepare(&device).unwrap();
    let new = 4 * 2 * 16 * 2;
    let cache = 3 * 8 * 2 * 16 * 2;
    let buffer = |bytes| device.upload(&vec![0; bytes]).unwrap();
    let (rows, slots, key, value) = (buffer(new), device.upload(&[0xff; 32]).unwrap(), buffer(cache), buffer(cache));
    let said = |tensors: AppendTensors<'_>| {
        prepared.forward(&tensors).map_or_else(|error| error.to_string(), |()| "taken".into())
    };
    assert_eq!(said(AppendTensors::new(&rows, &rows, &slots, &key, &value)), "taken");
    assert_eq!(
        said(AppendTensors::new(&rows, View::new(&rows, 2), &slots, &key, &value)),
        "new_value needs 256 bytes for its shape and strides; its buffer holds 254 from the offset given"
    );
    assert!(said(AppendTensors::new(&rows, &rows, &slots, &key, &rows)).starts_with("value_cache needs 1536 bytes"));
    assert!(
        said(AppendTensors::new(&rows, &rows, View::new(&slots, 8), &key, &value))
            .starts_with("slot_mapping needs 32 ")
    );
    let wide = buffer(cache + 8);
    assert!(
        said(AppendTensors::new(&rows, &rows, &slots, View::new(&wide, 1), &value)).contains("multiple of 2 bytes")
    );
    assert!(said(AppendTensors::new(&rows, &rows, View::new(&wide, 4), &key, &value)).contains("multiple of 8 bytes"));
    assert!(said(AppendTensors::new(&rows, &rows, &slots, &key, &key)).starts_with("value_cache overlaps key_cache: "));
    assert!(said(AppendTensors::new(&key, &rows, &slots, &key, &value)).starts_with("key_cache overlaps new_key: "));
    assert!(
        said(AppendTensors::new(&rows, &rows, &value, &key, &value)).starts_with("value_cache overlaps slot_mapping: ")
    );
    let other = Interpreter::new().upload(&vec![0; cache]).unwrap();
    assert_eq!(
        said(AppendTensors::new(&rows, &rows, &slots, &other, &value)),
        "key_cache lies in another device's memory: allocate it on the device that it is used with"
    );
}

/// Two caches of one allocation, a page's keys and then its values, share memory only where they meet.
#[test]
fn caches_that_interleave() {
    let device = Interpreter::new();
    let page = 8 * 2 * 16;
    let strides = Strides { batch: 2 * page, head: 16, row: 32 };
    let append = Append::new(1, 2, 16, 3, 8).cache_strides(Part::Key, strides).cache_strides(Part::Value, strides);
    let prepared = append.build().unwrap().prepare(&device).unwrap();
    let (cache, new) = (device.upload(&vec![0; 3 * 4 * page as usize]).unwrap(), device.upload(&[0; 64]).unwrap());
    let slots = device.upload(&[0xff; 8]).unwrap();
    let taken = |offset: i64| {
        let value_cache = View::new(&cache, 2 * offset as usize);
        prepared.forward(&AppendTensors::new(&new, &new, &slots, &cache, value_cache)).is_ok()
    };
    assert_eq!([page - 1, page].map(taken), [false, true]);
}
