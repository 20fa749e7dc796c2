//! `sdpa run` beyond dense attention: packed sequences, windows, soft caps, sinks, slopes, key lengths.

use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::sandbox::{Sandbox, Tensor, qkv, tensor};

const HEAD_DIM: usize = 64;

/// A tensor of whole numbers.
fn integers(name: &'static str, dtype: Dtype, numbers: &[i64]) -> Tensor {
    let bytes = |number: &i64| match dtype {
        Dtype::I32 => (*number as i32).to_le_bytes().to_vec(),
        Dtype::U32 => (*number as u32).to_le_bytes().to_vec(),
        Dtype::I64 => number.to_le_bytes().to_vec(),
        other => panic!("no test needs {other:?}"),
    };
    Tensor { name, dtype, shape: vec![numbers.len()], bytes: numbers.iter().flat_map(bytes).collect() }
}

/// A tensor of these f32 numbers.
fn numbers(name: &'static str, numbers: &[f32]) -> Tensor {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Tensor { name, dtype: Dtype::F32, shape: vec![numbers.len()], bytes }
}

/// Rows of a packed tensor as a batch of one, [1, rows, heads, head_dim].
fn rows(tensor: &Tensor, from: usize, to: usize) -> Tensor {
    let &[_, heads, head_dim] = tensor.shape.as_slice() else { panic!("three dimensions") };
    let row = heads * head_dim * 2;
    let bytes = tensor.bytes[from * row..to * row].to_vec();
    Tensor { name: tensor.name, dtype: tensor.dtype, shape: vec![1, to - from, heads, head_dim], bytes }
}

/// The shapes and the bytes of `out` and `lse` that a run wrote.
struct Written {
    out: (Vec<usize>, Vec<u8>),
    lse: (Vec<usize>, Vec<f32>),
}

fn written(sandbox: &Sandbox) -> Written {
    let bytes = std::fs::read(sandbox.path("out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (out, lse) = (file.tensor("out").unwrap(), file.tensor("lse").unwrap());
    let sums = lse.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Written { out: (out.shape().to_vec(), out.data().to_vec()), lse: (lse.shape().to_vec(), sums) }
}

fn run(sandbox: &Sandbox, tensors: &[Tensor], flags: &[&str]) -> String {
    sandbox.write("in.safetensors", tensors);
    sandbox.sdpa(&[&["run", "in.safetensors", "-o", "out.safetensors"], flags].concat())
}

/// Two rows of `q` and one of `k` lie behind the last sequence. One sequence has no query, one no key.
#[test]
fn a_packed_batch_is_each_of_its_sequences_alone() {
    let sandbox = Sandbox::new();
    let (queries, keys) = ([0, 5, 5, 45, 48], [0, 9, 13, 13, 83]);
    let (heads, total) = (4, 50);
    let key_shape = [84, 2, HEAD_DIM];
    let [query, key, value] = qkv(Dtype::F16, &[total, heads, HEAD_DIM], &key_shape, &key_shape);
    let boundaries = [integers("cu_seqlens_q", Dtype::I64, &queries), integers("cu_seqlens_k", Dtype::U32, &keys)];
    let flags = ["--causal", "--window", "20,all"];
    let copies = [&query, &key, &value].map(|of| Tensor { shape: of.shape.clone(), bytes: of.bytes.clone(), ..*of });
    let said = run(&sandbox, &copies.into_iter().chain(boundaries).collect::<Vec<_>>(), &flags);
    assert!(
        said.contains("\nproblem: b1 h4/2 q48 kv83 d64 f16 causal packed=4,40,70 window=20,all scale 0.125\n"),
        "{said}"
    );
    assert!(
        said.contains("\nnote: 2 rows of `q` lie behind the last sequence: written as 0, with a log-sum-exp of −∞\n"),
        "{said}"
    );
    // Rows that see no key are no rows whose log-sum-exp is too large.
    assert!(!said.contains("note: the log-sum-exp") && said.ends_with("exit 0"), "{said}");
    let packed = written(&sandbox);
    assert_eq!((&packed.out.0[..], &packed.lse.0[..]), (&[total, heads, HEAD_DIM][..], &[heads, total][..]));

    let row = heads * HEAD_DIM * 2;
    let whole = [&flags[..], &["--layout", "blhd", "--generation", "v2i"]].concat();
    for (queries, keys) in queries.windows(2).zip(keys.windows(2)).filter(|(queries, _)| queries[0] < queries[1]) {
        let [queries, keys] = [queries, keys].map(|pair| pair[0] as usize..pair[1] as usize);
        let of_keys = |of| rows(of, keys.start, keys.end);
        let said = run(&sandbox, &[rows(&query, queries.start, queries.end), of_keys(&key), of_keys(&value)], &whole);
        assert!(said.ends_with("exit 0"), "{said}");
        let alone = written(&sandbox);
        assert_eq!(packed.out.1[queries.start * row..queries.end * row], alone.out.1, "{queries:?}");
        for head in 0..heads {
            let together = &packed.lse.1[head * total..][queries.clone()];
            assert_eq!(together, &alone.lse.1[head * queries.len()..][..queries.len()], "{queries:?} of head {head}");
        }
    }
    assert!(packed.out.1[48 * row..].iter().all(|byte| *byte == 0));
    for head in 0..heads {
        assert_eq!(packed.lse.1[head * total + 48..][..2], [f32::NEG_INFINITY; 2]);
    }
}

/// Keys in pages give what they give behind one another. Entries behind them may be anything.
#[test]
fn pages_are_found_through_the_table() {
    let sandbox = Sandbox::new();
    let pages = |count: i64, page: usize, table: &[i64], length: i64| {
        let shape = [count as usize, page, 2, HEAD_DIM];
        let [query, key, value] = qkv(Dtype::F16, &[1, 2, 4, HEAD_DIM], &shape, &shape);
        let table = Tensor { shape: vec![1, table.len()], ..integers("block_table", Dtype::I32, table) };
        [query, key, value, table, integers("key_lengths", Dtype::I64, &[length])]
    };
    let flags = ["--causal", "--layout", "blhd", "--generation", "v2j"];
    let order = [3, 0, 2];
    let said = run(&sandbox, &pages(4, 16, &[3, 0, 2, -7], 41), &flags);
    assert!(
        said.contains(" kv41 ") && said.contains(" key-lengths pages=16,4,4 ") && said.ends_with("exit 0"),
        "{said}"
    );
    let paged = written(&sandbox);

    let behind = |of: &Tensor| {
        let bytes = of.bytes.len() / 4;
        let gathered = order.iter().flat_map(|page| &of.bytes[page * bytes..][..bytes]).copied().collect();
        Tensor { name: of.name, dtype: of.dtype, shape: vec![1, 48, 2, HEAD_DIM], bytes: gathered }
    };
    let [query, key, value, _, lengths] = pages(4, 16, &[3, 0, 2, -7], 41);
    let said = run(&sandbox, &[query, behind(&key), behind(&value), lengths], &flags);
    assert!(said.ends_with("exit 0"), "{said}");
    let contiguous = written(&sandbox);
    assert_eq!((paged.out, paged.lse), (contiguous.out, contiguous.lse));

    let refused = |tensors: &[Tensor], why: &str| {
        let said = run(&sandbox, tensors, &flags);
        assert!(said.contains(why) && said.ends_with("exit 2"), "{said}");
    };
    refused(
        &pages(4, 16, &[3, 4, 2], 41),
        "tensor `block_table` holds 4 at [0, 1]: expected from 0 to 3, a page of `k`",
    );
    refused(
        &pages(4, 16, &[3, 0, 2], 49),
        "holds 49 at index 0: expected from 0 to 48, what a row of `block_table` has",
    );
    refused(&pages(4, 12, &[3, 0, 2], 30), "a page of 12 keys: pages have 8, 16, 32, 64, 128 or 256");
    refused(&pages(4, 16, &[3, 0, 2], 41)[..4], "tensor `key_lengths` is missing");
}

/// Attention as a user would write it, of [1, heads, length, head_dim], with two query heads and one key head.
struct Naive {
    window: [i64; 2],
    softcap: Option<f64>,
    sinks: [f64; 2],
    slopes: [f64; 2],
    keys_used: usize,
}

const QUERIES: usize = 9;
const KEYS: usize = 30;

impl Naive {
    const PLAIN: Self = Self {
        window: [i64::MAX / 4; 2],
        softcap: None,
        sinks: [f64::NEG_INFINITY; 2],
        slopes: [0.0; 2],
        keys_used: KEYS,
    };

    fn out(&self, [query, key, value]: &[Tensor; 3]) -> Tensor {
        let number =
            |of: &Tensor, index: usize| f16::from_le_bytes([of.bytes[2 * index], of.bytes[2 * index + 1]]).to_f64();
        let mut out = Vec::new();
        for (head, row) in (0..2).flat_map(|head| (0..QUERIES).map(move |row| (head, row))) {
            let place = row as i64 + self.keys_used as i64 - QUERIES as i64;
            let sees = |key: &i64| place - self.window[0] <= *key && *key <= place + self.window[1];
            let seen: Vec<usize> = (0..self.keys_used as i64).filter(sees).map(|key| key as usize).collect();
            let weight = |at: &usize| {
                let product = |column| {
                    number(query, (head * QUERIES + row) * HEAD_DIM + column) * number(key, at * HEAD_DIM + column)
                };
                let score: f64 = (0..HEAD_DIM).map(product).sum::<f64>() / 8.0;
                let score = self.softcap.map_or(score, |cap| cap * (score / cap).tanh());
                (score - self.slopes[head] * (place - *at as i64).abs() as f64).exp()
            };
            let weights: Vec<f64> = seen.iter().map(weight).collect();
            let sum = weights.iter().sum::<f64>() + self.sinks[head].exp();
            for column in 0..HEAD_DIM {
                let weighted = |(at, weight): (&usize, &f64)| weight * number(value, at * HEAD_DIM + column);
                out.push((seen.iter().zip(&weights).map(weighted).sum::<f64>() / sum) as f32);
            }
        }
        Tensor { shape: vec![1, 2, QUERIES, HEAD_DIM], ..numbers("out", &out) }
    }
}

#[test]
fn what_a_file_and_flags_ask_for_is_computed_and_compared() {
    let key_shape = [1, 1, KEYS, HEAD_DIM];
    let inputs = || qkv(Dtype::F16, &[1, 2, QUERIES, HEAD_DIM], &key_shape, &key_shape);
    let sandbox = Sandbox::new();
    let compare = |flags: &[&str], beside: Option<Tensor>, reference: &Naive| {
        let out = reference.out(&inputs());
        run(&sandbox, &inputs().into_iter().chain(beside).chain([out]).collect::<Vec<_>>(), flags)
    };
    // [2], in 16 bits.
    let [sinks, slopes] = [(1.0, 2.0), (0.25, 1.0)].map(|(one, other)| {
        [one, other].into_iter().flat_map(|number: f32| f16::from_f32(number).to_le_bytes()).collect::<Vec<u8>>()
    });
    let half = |name, bytes| Some(Tensor { name, dtype: Dtype::F16, shape: vec![2], bytes });
    let cases: [(&[&str], Option<Tensor>, &str, Naive); 6] = [
        (&["--window", "3,2"], None, " window=3,2", Naive { window: [3, 2], ..Naive::PLAIN }),
        (&["--window", "all,0"], None, " window=all,0", Naive { window: [i64::MAX / 4, 0], ..Naive::PLAIN }),
        (&["--softcap", "0.5"], None, " softcap=0.5", Naive { softcap: Some(0.5), ..Naive::PLAIN }),
        (&[], half("sinks", sinks), " sinks", Naive { sinks: [1.0, 2.0], ..Naive::PLAIN }),
        (&[], half("slopes", slopes), " slopes", Naive { slopes: [0.25, 1.0], ..Naive::PLAIN }),
        (
            &[],
            Some(integers("key_lengths", Dtype::I32, &[17])),
            " key-lengths",
            Naive { keys_used: 17, ..Naive::PLAIN },
        ),
    ];
    for (flags, beside, named, naive) in cases {
        let again = beside.as_ref().map(|of| Tensor { shape: of.shape.clone(), bytes: of.bytes.clone(), ..*of });
        let said = compare(flags, beside, &naive);
        assert!(said.contains(&format!("f16 full{named} scale")), "{said}");
        assert!(said.contains("against `out`: ") && said.contains(": within tolerance"), "{named}: {said}");
        assert!(said.ends_with("exit 0"), "{named}: {said}");
        // Ranks that share the sequence compute the same; distances of slopes are not a ring's.
        let copy = || again.as_ref().map(|of| Tensor { shape: of.shape.clone(), bytes: of.bytes.clone(), ..*of });
        for way in ["ring", "heads"] {
            let said = compare(&[flags, &["--ranks", "2", "--way", way]].concat(), copy(), &naive);
            let declined = named == " slopes" && way == "ring";
            let (expected, code) =
                if declined { ("error: ring does not take slopes", 2) } else { (": within tolerance", 0) };
            assert!(said.contains(expected) && said.ends_with(&format!("exit {code}")), "{named} by {way}: {said}");
        }
        // It is not what would be computed without.
        let said = compare(flags, again, &Naive::PLAIN);
        assert!(said.contains(": OUT OF TOLERANCE") && said.ends_with("exit 1"), "{named}: {said}");
    }
}

/// A packed reference is compared up to the last sequence's end.
#[test]
fn a_packed_reference_is_compared() {
    let sandbox = Sandbox::new();
    let shape = [12, 2, HEAD_DIM];
    let begins = || integers("cu_seqlens_q", Dtype::I32, &[0, 4, 11]);
    let inputs = || qkv(Dtype::F16, &shape, &shape, &shape).into_iter().chain([begins()]);
    let said = run(&sandbox, &inputs().collect::<Vec<_>>(), &[]);
    assert!(said.contains("note: 1 row of `q` lies behind the last sequence: ") && said.ends_with("exit 0"), "{said}");
    let mut out = Tensor { name: "out", dtype: Dtype::F16, shape: shape.to_vec(), bytes: written(&sandbox).out.1 };
    // What the row behind holds is nobody's business.
    let row = 2 * HEAD_DIM * 2;
    out.bytes[11 * row..].fill(0x3c);
    let mut other = Tensor { shape: shape.to_vec(), bytes: out.bytes.clone(), ..out };
    let said = run(&sandbox, &inputs().chain([out]).collect::<Vec<_>>(), &[]);
    assert!(said.contains("against `out`: relative Frobenius error 0.00e0") && said.ends_with("exit 0"), "{said}");
    other.bytes[5 * row..7 * row].fill(0x3c);
    let said = run(&sandbox, &inputs().chain([other]).collect::<Vec<_>>(), &[]);
    assert!(said.contains("OUT OF TOLERANCE") && said.ends_with("exit 1"), "{said}");
}

/// One sequence sees keys whose logits are vast, one sees no key: only rows of the first are counted.
#[test]
fn rows_without_keys_are_not_counted_among_those_of_infinite_log_sum_exp() {
    let sandbox = Sandbox::new();
    let [query, mut key, value] = qkv(Dtype::F16, &[7, 1, 8], &[3, 1, 8], &[3, 1, 8]);
    // q · k is 8, of which the scale makes more than f32 holds.
    key.bytes = f16::ONE.to_le_bytes().repeat(24);
    let query = Tensor { bytes: f16::ONE.to_le_bytes().repeat(56), ..query };
    let boundaries =
        [integers("cu_seqlens_q", Dtype::I32, &[0, 2, 7]), integers("cu_seqlens_k", Dtype::I32, &[0, 3, 3])];
    let said =
        run(&sandbox, &[query, key, value].into_iter().chain(boundaries).collect::<Vec<_>>(), &["--scale", "1e38"]);
    assert!(said.contains("note: the log-sum-exp of 2 rows that see keys is beyond the largest f32"), "{said}");
}

#[test]
fn a_generation_declines_what_it_does_not_take() {
    let sandbox = Sandbox::new();
    let shape = [12, 2, HEAD_DIM];
    let packed =
        qkv(Dtype::F16, &shape, &shape, &shape).into_iter().chain([integers("cu_seqlens_q", Dtype::I32, &[0, 12])]);
    let said = run(&sandbox, &packed.collect::<Vec<_>>(), &["--generation", "v2h"]);
    assert!(said.ends_with("error: v2h does not take packed sequences\nexit 2"), "{said}");
    let dense = [1, 2, 12, HEAD_DIM];
    let said = run(&sandbox, &qkv(Dtype::F16, &dense, &dense, &dense), &["--generation", "v2d", "--window", "3,0"]);
    assert!(said.ends_with("error: v2d does not take windows\nexit 2"), "{said}");
}

/// What the program says of packed tensors, 16 rows of `q` and 20 of `k`, with these beside them.
fn said_of(beside: Vec<Tensor>) -> String {
    let (query, key) = ([16, 2, HEAD_DIM], [20, 2, HEAD_DIM]);
    let tensors = qkv(Dtype::F16, &query, &key, &key).into_iter().chain(beside);
    Sandbox::new().run_on(&tensors.collect::<Vec<_>>())
}

#[test]
fn boundaries_that_are_none_are_told() {
    let queries = |numbers: &[i64]| integers("cu_seqlens_q", Dtype::I32, numbers);
    let keys = |numbers: &[i64]| integers("cu_seqlens_k", Dtype::I64, numbers);
    let cases = [
        vec![],
        vec![keys(&[0, 20])],
        vec![queries(&[0, 16])],
        vec![queries(&[3, 16]), keys(&[0, 20])],
        vec![queries(&[0, 9, 4, 16]), keys(&[0, 20])],
        vec![queries(&[0, -9]), keys(&[0, 20])],
        vec![queries(&[0, 17]), keys(&[0, 20])],
        vec![queries(&[0, 16]), keys(&[0, 1 << 40])],
        vec![queries(&[0, 9, 16]), keys(&[0, 20])],
        vec![queries(&[]), keys(&[])],
        vec![numbers("cu_seqlens_q", &[0.0, 16.0])],
        vec![Tensor { shape: vec![1, 2], ..queries(&[0, 16]) }],
        vec![queries(&[0, 16]), keys(&[0, 20]), integers("key_lengths", Dtype::I32, &[3])],
    ];
    insta::assert_snapshot!(cases.map(said_of).join("\n"), @r"
    error: tensor `q` has shape [16, 2, 64]: expected [batch, heads, length, head_dim]; packed sequences, [total, heads, head_dim], need `cu_seqlens_q` in the file
    exit 2
    error: tensor `cu_seqlens_q` is missing: the file holds `cu_seqlens_k`, which says where each sequence's keys begin; add where its queries do
    exit 2
    error: tensor `cu_seqlens_k` is missing: `q` has 16 rows and `k` 20, so `cu_seqlens_q` cannot serve both; add where each sequence's keys begin
    exit 2
    error: tensor `cu_seqlens_q` starts at 3: expected 0, where the first sequence begins; lengths must be added up
    exit 2
    error: tensor `cu_seqlens_q` falls from 9 to 4 at index 2: expected numbers that never fall, since each sequence begins where the one before it ends
    exit 2
    error: tensor `cu_seqlens_q` falls from 0 to -9 at index 1: expected numbers that never fall, since each sequence begins where the one before it ends
    exit 2
    error: tensor `cu_seqlens_q` ends at 17: expected at most 16, the rows of `q`
    exit 2
    error: tensor `cu_seqlens_k` ends at 1099511627776: expected at most 20, the rows of `k`
    exit 2
    error: tensor `cu_seqlens_k` has 2 numbers: expected 3, as many as `cu_seqlens_q` has
    exit 2
    error: tensor `cu_seqlens_q` has no numbers: expected [sequences + 1], where each sequence begins and the last one ends
    exit 2
    error: tensor `cu_seqlens_q` is f32: expected i32, u32 or i64
    exit 2
    error: tensor `cu_seqlens_q` has shape [1, 2]: expected [sequences + 1], where each sequence begins and the last one ends
    exit 2
    error: packed sequences have their key lengths in cu_seqlens_k; leave key_lengths out
    exit 2
    ");
}

#[test]
fn packed_tensors_of_other_shapes_are_told() {
    let sandbox = Sandbox::new();
    let begins = || integers("cu_seqlens_q", Dtype::I32, &[0, 16]);
    let dense = [1, 2, 16, HEAD_DIM];
    let mut said = vec![
        sandbox.run_on(&qkv(Dtype::F16, &dense, &dense, &dense).into_iter().chain([begins()]).collect::<Vec<_>>()),
    ];
    let packed = [16, 2, HEAD_DIM];
    for (key, value) in [([16, 2, 32], [16, 2, 32]), ([16, 2, 64], [17, 2, 64])] {
        let tensors = qkv(Dtype::F16, &packed, &key, &value).into_iter().chain([begins()]);
        said.push(sandbox.run_on(&tensors.collect::<Vec<_>>()));
    }
    let tensors = qkv(Dtype::F16, &packed, &packed, &packed).into_iter().chain([begins()]);
    said.push(run(&sandbox, &tensors.collect::<Vec<_>>(), &["--layout", "bhld"]));
    insta::assert_snapshot!(said.join("\n"), @r"
    error: tensor `q` has shape [1, 2, 16, 64]: expected [total, heads, head_dim], since the file holds `cu_seqlens_q`
    exit 2
    error: tensor `k` has shape [16, 2, 32]: expected [total, heads, 64], with the head_dim of `q` [16, 2, 64]
    exit 2
    error: tensor `v` has shape [17, 2, 64]: expected [16, 2, 64], the shape of `k`, of which the last number may differ
    exit 2
    error: --layout is for dense tensors: with `cu_seqlens_q` in the file, tensors are [total, heads, head_dim]; leave --layout out
    exit 2
    ");
}

#[test]
fn numbers_of_heads_and_lengths_that_do_not_fit_are_told() {
    let said = |beside: Tensor| {
        let shape = [2, 4, 16, HEAD_DIM];
        Sandbox::new().run_on(&qkv(Dtype::F16, &shape, &shape, &shape).into_iter().chain([beside]).collect::<Vec<_>>())
    };
    let cases = [
        numbers("sinks", &[0.0; 3]),
        Tensor { shape: vec![4, 1], ..numbers("sinks", &[0.0; 4]) },
        numbers("sinks", &[0.0, f32::NEG_INFINITY, f32::NAN, 0.0]),
        integers("sinks", Dtype::I32, &[0; 4]),
        numbers("slopes", &[0.0; 8]),
        numbers("slopes", &[0.0, f32::NEG_INFINITY, 0.0, 0.0]),
        integers("key_lengths", Dtype::I32, &[16; 4]),
        integers("key_lengths", Dtype::I32, &[16, 17]),
        integers("key_lengths", Dtype::I64, &[-1, 16]),
        tensor("key_lengths", Dtype::F32, &[2]),
    ];
    insta::assert_snapshot!(cases.map(said).join("\n"), @r"
    error: tensor `sinks` has shape [3]: expected [4], one number for each head of `q`
    exit 2
    error: tensor `sinks` has shape [4, 1]: expected [4], one number for each head of `q`
    exit 2
    error: tensor `sinks` holds NaN at index 2: expected numbers, or −∞ for a head without a sink
    exit 2
    error: tensor `sinks` is i32: expected f32, f16 or bf16
    exit 2
    error: tensor `slopes` has shape [8]: expected [4], one number for each head of `q`
    exit 2
    error: tensor `slopes` holds -inf at index 1: expected finite numbers
    exit 2
    error: tensor `key_lengths` has shape [4]: expected [2], one number for each sequence of the batch
    exit 2
    error: tensor `key_lengths` holds 17 at index 1: expected from 0 to 16, the length of `k`
    exit 2
    error: tensor `key_lengths` holds -1 at index 0: expected from 0 to 16, the length of `k`
    exit 2
    error: tensor `key_lengths` is f32: expected i32, u32 or i64
    exit 2
    ");
}

#[test]
fn windows_and_caps_that_are_none_are_told() {
    let sandbox = Sandbox::new();
    let shape = [1, 2, 16, HEAD_DIM];
    let said = |flags: &[&str]| run(&sandbox, &qkv(Dtype::F16, &shape, &shape, &shape), flags);
    let cases = [
        ["--window", "3"],
        ["--window", "3,0,0"],
        ["--window", "-1,0"],
        ["--window", "3,none"],
        ["--window", "3,4294967296"],
        ["--softcap", "0"],
        ["--softcap", "-5"],
    ];
    insta::assert_snapshot!(cases.map(|flags| said(&flags)).join("\n"), @r"
    error: invalid value '3' for '--window <LEFT,RIGHT>': expected LEFT,RIGHT, such as 128,0 or 128,all

    For more information, try '--help'.
    exit 2
    error: invalid value '3,0,0' for '--window <LEFT,RIGHT>': expected LEFT,RIGHT, such as 128,0 or 128,all

    For more information, try '--help'.
    exit 2
    error: invalid value '-1,0' for '--window <LEFT,RIGHT>': `-1` is no number of keys; `all` is no limit on that side

    For more information, try '--help'.
    exit 2
    error: invalid value '3,none' for '--window <LEFT,RIGHT>': `none` is no number of keys; `all` is no limit on that side

    For more information, try '--help'.
    exit 2
    error: window's right side is 4294967296: at most 2147482623 fit the kernels' 32-bit indices
    exit 2
    error: softcap is 0e0: it must be above 0 and at most 2^20; leave it out for scores without a cap
    exit 2
    error: softcap is -5e0: it must be above 0 and at most 2^20; leave it out for scores without a cap
    exit 2
    ");
    assert!(!sandbox.path("out.safetensors").exists());
}

/// Memory and time go with the numbers in a file, not with its shapes.
#[test]
fn a_vast_batch_of_empty_sequences_takes_no_memory() {
    let shape = [1 << 30, 1 << 30, 0, HEAD_DIM];
    let said = run(&Sandbox::new(), &qkv(Dtype::F16, &shape, &shape, &shape), &[]);
    assert!(said.contains("\nwrote out.safetensors\n") && said.ends_with("exit 0"), "{said}");
}

/// No sequence at all, or only empty ones: nothing to compute, and a whole file of zeros.
#[test]
fn packed_batches_without_rows_are_taken() {
    let sandbox = Sandbox::new();
    let shape = [3, 2, HEAD_DIM];
    for begins in [&[0][..], &[0, 0, 0]] {
        let begins = integers("cu_seqlens_q", Dtype::U32, begins);
        let said = run(
            &sandbox,
            &qkv(Dtype::F16, &shape, &shape, &shape).into_iter().chain([begins]).collect::<Vec<_>>(),
            &[],
        );
        assert!(
            said.contains("note: 3 rows of `q` lie behind the last sequence") && said.ends_with("exit 0"),
            "{said}"
        );
        let Written { out, lse } = written(&sandbox);
        assert_eq!((out.0, out.1.iter().all(|byte| *byte == 0)), (shape.to_vec(), true));
        assert_eq!(lse, (vec![2, 3], vec![f32::NEG_INFINITY; 6]));
    }
}

/// Keys and values in 8 bits are what they are times their scales; what does not go together is told.
#[test]
fn keys_and_values_in_e4m3_are_taken_with_their_scales() {
    let sandbox = Sandbox::new();
    let shape = [1, 2, 1, HEAD_DIM];
    let bytes = |name, first: u8| Tensor {
        name,
        dtype: Dtype::F8_E4M3,
        shape: shape.to_vec(),
        // The second head's are those of the first with the other sign.
        bytes: [0, 0x80].into_iter().flat_map(|sign| (first..).take(HEAD_DIM).map(move |bits| bits | sign)).collect(),
    };
    // Scores of 0, so that the one key's value comes back as it is, times 1/2 in one head and 2 in the other.
    let query = || Tensor { name: "q", dtype: Dtype::F16, shape: shape.to_vec(), bytes: vec![0; 4 * HEAD_DIM] };
    let tensors = |scales: &[f32]| {
        [query(), bytes("k", 0x20), bytes("v", 0x3f), numbers("k_scale", scales), numbers("v_scale", scales)]
    };
    let said = run(&sandbox, &tensors(&[0.5, 2.0]), &[]);
    assert!(said.contains("\nproblem: b1 h2 L1 d64 f16 full kv=e4m3-per-head scale 0.125\n"), "{said}");
    assert!(said.contains("v2l/f16_d64") && said.ends_with("exit 0"), "{said}");
    // From 0x3f on, 1.875: 7 more steps of an eighth of each power of two.
    let found = written(&sandbox).out.1;
    let element = |index: usize| f16::from_le_bytes([found[2 * index], found[2 * index + 1]]).to_f32();
    assert_eq!([0, 1, 2, 9, HEAD_DIM - 1].map(element), [0.9375, 1.0, 1.125, 2.0, 224.0]);
    assert_eq!([HEAD_DIM, HEAD_DIM + 1, 2 * HEAD_DIM - 1].map(element), [-3.75, -4.0, -896.0]);
    let said = run(&sandbox, &tensors(&[0.5]), &[]);
    assert!(said.contains(" full kv=e4m3 scale") && said.ends_with("exit 0"), "{said}");

    let refused = |tensors: &[Tensor], why: &str| {
        let said = run(&sandbox, tensors, &[]);
        assert!(said.contains(why) && said.ends_with("exit 2"), "{said}");
    };
    let [query_, key, value, key_scale, value_scale] = tensors(&[0.5]);
    refused(&[query_, key, value, key_scale], "tensor `v_scale` is missing: `v` is f8_e4m3; add what its elements");
    let [query_, key, value, key_scale, _] = tensors(&[0.5]);
    refused(
        &[query_, key, value, key_scale, numbers("v_scale", &[0.0])],
        "`v_scale` holds 0 at index 0: expected positive",
    );
    refused(
        &tensors(&[1.0, 2.0, 3.0]),
        "`k_scale` has shape [3]: expected [1], or [2], one number for each head of `k`",
    );
    let [query_, key, _, key_scale, _] = tensors(&[0.5]);
    let half = Tensor { name: "v", ..query() };
    refused(&[query_, key, half, key_scale, value_scale], "tensor `v` is f16: expected f8_e4m3, as `k` is");
    let [half_key, half_value] = ["k", "v"].map(|name| Tensor { name, ..query() });
    let scales = [numbers("k_scale", &[1.0]), numbers("v_scale", &[1.0])];
    let all: Vec<Tensor> = [query(), half_key, half_value].into_iter().chain(scales).collect();
    refused(&all, "tensor `k_scale` is there, and `k` is f16: expected `k` and `v` in f8_e4m3");
    let said = run(&sandbox, &tensors(&[0.5]), &["--generation", "v2j"]);
    assert!(said.contains("v2j does not take keys and values in e4m3") && said.ends_with("exit 2"), "{said}");
}
