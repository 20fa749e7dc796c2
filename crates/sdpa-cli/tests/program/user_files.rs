//! Users' files: where outputs go, and the order of dimensions.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use safetensors::{Dtype, SafeTensors};

use super::sandbox::{Sandbox, Tensor, qkv, tensor};

const SHAPE: [usize; 4] = [1, 2, 16, 64];

fn with_input() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("in.safetensors", &qkv(Dtype::F16, &SHAPE, &SHAPE, &SHAPE));
    sandbox
}

#[test]
fn outputs_go_through_links_and_pipes_and_keep_permissions() {
    let sandbox = with_input();
    let run = |output: &str| sandbox.sdpa(&["run", "in.safetensors", "-o", output]);
    // Through a link, so that a mistake costs the link and not the machine's device.
    symlink("/dev/null", sandbox.path("null")).unwrap();
    assert!(run("null").ends_with("exit 0"));
    assert!(sandbox.path("null").is_symlink() && !std::fs::metadata(sandbox.path("null")).unwrap().is_file());

    std::fs::write(sandbox.path("private"), "old").unwrap();
    std::fs::set_permissions(sandbox.path("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink("private", sandbox.path("link")).unwrap();
    assert!(run("link").ends_with("exit 0"));
    assert!(sandbox.path("link").is_symlink());
    assert_eq!(std::fs::metadata(sandbox.path("private")).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = std::fs::read(sandbox.path("private")).unwrap();
    assert!(SafeTensors::deserialize(&whole).is_ok());

    assert!(Command::new("mkfifo").arg(sandbox.path("pipe")).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = sandbox.path("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    assert!(run("pipe").ends_with("exit 0"));
    assert_eq!(reader.join().unwrap(), whole);
}

#[test]
fn a_full_device_is_an_error_and_an_unusable_target_one_before_any_work() {
    let sandbox = with_input();
    let run = |output: &str| sandbox.sdpa(&["run", "in.safetensors", "-o", output]);
    symlink("/dev/full", sandbox.path("full")).unwrap();
    assert!(run("full").ends_with("error: full: No space left on device (os error 28)\nexit 2"));
    symlink("circle", sandbox.path("circle")).unwrap();
    let said = run("circle");
    assert!(said.starts_with("error: circle: ") && said.ends_with("exit 2"), "{said}");
}

/// The same tensor with its second and third dimensions exchanged.
fn transposed(tensor: &Tensor) -> Tensor {
    let &[batch, heads, length, head_dim] = tensor.shape.as_slice() else { panic!("four dimensions") };
    let row = head_dim * 2;
    let mut bytes = Vec::new();
    for (b, l, h) in (0..batch).flat_map(|b| (0..length).flat_map(move |l| (0..heads).map(move |h| (b, l, h)))) {
        let start = ((b * heads + h) * length + l) * row;
        bytes.extend_from_slice(&tensor.bytes[start..start + row]);
    }
    Tensor { name: tensor.name, dtype: tensor.dtype, shape: vec![batch, length, heads, head_dim], bytes }
}

#[test]
fn the_other_layout_gives_the_same_numbers_in_its_own_order() {
    let sandbox = Sandbox::new();
    let (query, key) = ([2, 4, 9, 64], [2, 2, 33, 64]);
    let tensors = qkv(Dtype::F16, &query, &key, &key);
    sandbox.write("bhld.safetensors", &tensors);
    let mut others = tensors.iter().map(transposed).collect::<Vec<_>>();
    let run = |layout: &str| {
        let input = format!("{layout}.safetensors");
        let said = sandbox.sdpa(&["run", &input, "-o", "out.safetensors", "--causal", "--layout", layout]);
        assert!(!said.contains("note: "), "{said}");
        (said, std::fs::read(sandbox.path("out.safetensors")).unwrap())
    };
    let (said, plain) = run("bhld");
    assert!(said.ends_with("exit 0"), "{said}");
    let plain = SafeTensors::deserialize(&plain).unwrap();
    let bytes = plain.tensor("out").unwrap().data().to_vec();
    let expected = transposed(&Tensor { name: "out_causal", dtype: Dtype::F16, shape: query.to_vec(), bytes });
    // As a reference beside the input, too, it is compared in its own order.
    others.push(Tensor { bytes: expected.bytes.clone(), shape: expected.shape.clone(), ..expected });
    sandbox.write("blhd.safetensors", &others);
    let (said, other) = run("blhd");
    assert!(
        said.contains("against `out_causal`: relative Frobenius error 0.00e0") && said.ends_with("exit 0"),
        "{said}"
    );
    let other = SafeTensors::deserialize(&other).unwrap();
    let found = other.tensor("out").unwrap();
    assert_eq!((found.shape(), found.data()), (&[2, 9, 4, 64][..], others[3].bytes.as_slice()));
    assert_eq!(plain.tensor("lse").unwrap().data(), other.tensor("lse").unwrap().data());
    assert_eq!(other.tensor("lse").unwrap().shape(), [2, 4, 9]);
}

#[test]
fn shapes_that_look_transposed_get_a_note() {
    let sandbox = Sandbox::new();
    let run = |query: &[usize], key: &[usize], layout: &str| {
        sandbox.write("in.safetensors", &qkv(Dtype::F16, query, key, key));
        sandbox.sdpa(&["run", "in.safetensors", "-o", "out.safetensors", "--layout", layout])
    };
    let note = "note: read as [batch, heads, length, head_dim], `k` has 40 heads and only 2 positions: if it is [batch, \
                length, heads, head_dim], say --layout blhd\n";
    let said = run(&[1, 40, 2, 64], &[1, 40, 2, 64], "bhld");
    assert!(said.contains(note) && said.ends_with("exit 0"), "{said}");
    assert!(!run(&[1, 40, 2, 64], &[1, 40, 2, 64], "blhd").contains("note: "));
    // A query over a cache, which the wrong order makes no problem at all.
    let said = run(&[1, 1, 4, 64], &[1, 50, 2, 64], "bhld");
    assert!(
        said.starts_with("error: heads_q is 1 and heads_kv is 50: ") && said.contains("say --layout blhd"),
        "{said}"
    );
    assert!(said.ends_with("exit 2"), "{said}");
    // One query of many heads is ordinary.
    assert!(!run(&[1, 8, 1, 64], &[1, 2, 40, 64], "bhld").contains("note: "));
    let said = run(&[1, 2, 40, 64], &[1, 2, 40, 64], "blhd");
    assert!(said.contains("`k` has 40 heads and only 2 positions") && said.contains("say --layout bhld"), "{said}");
}

#[test]
fn nan_is_told_from_a_wrong_scale() {
    let sandbox = Sandbox::new();
    let [query, mut key, value] = qkv(Dtype::F16, &SHAPE, &SHAPE, &SHAPE);
    // A NaN in one key, and a reference that knows nothing of it.
    key.bytes[..2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    sandbox.write("in.safetensors", &[query, key, value, tensor("out", Dtype::F32, &SHAPE)]);
    let said = sandbox.sdpa(&["run", "in.safetensors", "-o", "out.safetensors"]);
    assert!(said.contains("look at q, k and v: 1 of their elements are NaN or infinite, and 1024 output"), "{said}");
    assert!(!said.contains("wrong: ") && said.ends_with("exit 1"), "{said}");
}
