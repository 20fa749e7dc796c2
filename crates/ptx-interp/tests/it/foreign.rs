//! Kernels of other compilers than NVRTC: Triton's (`tests/kernels/triton_kernels.py`) and LLVM's (`tests/kernels/llvm.ll`).

use ptx_interp::{ElementType, Launch, Memory, Module, OutOfBoundsFill, Swizzle, TensorMapDescription};

use crate::kernels::Case;

const TRITON: &str = include_str!("../kernels/triton_kernels.py");
const LLVM: (&str, &str) = (include_str!("../kernels/llvm.ll"), include_str!("../kernels/llvm.ptx"));

macro_rules! triton {
    ($($name:literal),+) => { [$(($name, include_str!(concat!("../kernels/triton/", $name, ".ptx")))),+] };
}

const TRITON_PTX: [(&str, &str); 13] = triton!(
    "sums",
    "sums_of_one_too_many",
    "softmax",
    "histogram",
    "prefix",
    "reverse",
    "product",
    "product_of_a_warpgroup",
    "lock_without_a_barrier",
    "lock",
    "last_block",
    "last_block_relaxed",
    "product_of_tensors"
);

fn triton_ptx(name: &str) -> &'static str {
    TRITON_PTX.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is not on the list")).1
}

/// The cases of a text: lines that begin with a mark, each before a line from which `name` takes the kernel's name.
fn cases(text: &str, mark: &str, name: impl Fn(&str) -> Option<&str>) -> Vec<Case> {
    let start = format!("\n{mark} ");
    let parts = text.split(&start).skip(1);
    let parts = parts.map(|part| part.split_once('\n').expect("a kernel follows"));
    parts.map(|(line, rest)| Case::parse(rest.lines().find_map(&name).expect("a name"), line)).collect()
}

fn triton_cases() -> Vec<Case> {
    cases(TRITON, "#@", |line| line.strip_prefix("def ")?.split('(').next())
}

fn triton_result(name: &str) -> Vec<Vec<u8>> {
    let cases = triton_cases();
    let case = cases.iter().find(|case| case.name == name).expect("there is such a case");
    let kernel = Module::parse(triton_ptx(name)).expect("parses").kernel(name).expect("decodes");
    case.run(&kernel, 1).1
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

#[test]
fn what_triton_makes_is_judged_right() {
    let cases = triton_cases();
    // The last one is launched below.
    assert_eq!(cases.len() + 1, TRITON_PTX.len(), "a kernel has no line that says what it shows");
    let judged = cases.iter().filter_map(|case| {
        let kernel = Module::parse(triton_ptx(&case.name)).expect("parses").kernel(&case.name).expect("decodes");
        case.judge(&kernel)
    });
    let wrong: Vec<_> = judged.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_llvm_makes_is_judged_right() {
    let module = Module::parse(LLVM.1).expect("parses");
    let cases = cases(LLVM.0, ";@", |line| line.strip_prefix("define void @")?.split('(').next());
    assert_eq!(cases.len(), module.kernel_names().count(), "a kernel has no line that says what it shows");
    let judged = cases.iter().filter_map(|case| case.judge(&module.kernel(&case.name).expect("decodes")));
    let wrong: Vec<_> = judged.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_triton_makes_computes_what_it_should() {
    let sums: Vec<f32> = (0..1000).map(|index| 2.0 * index as f32).collect();
    assert_eq!(floats(&triton_result("sums")[2]), sums);
    let softmax = floats(&triton_result("softmax")[1]);
    assert!(softmax.chunks_exact(250).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row.is_sorted()));
    let prefix = floats(&triton_result("prefix")[1]);
    assert!(prefix.iter().enumerate().all(|(index, sum)| *sum == (index * (index + 1) / 2) as f32));
    let reverse: Vec<f32> = (0..128).rev().map(|index| index as f32).collect();
    assert_eq!(floats(&triton_result("reverse")[1]), reverse);
    let total = (0..384).sum::<i32>() as f32;
    assert_eq!(floats(&triton_result("lock")[1]), [total]);
    let total = (0..512).sum::<i32>() as f32;
    assert_eq!(floats(&triton_result("last_block")[3]), [total]);
    // As f16, which rounds whole numbers beyond 2048.
    let element = |index: usize| f64::from(half::f16::from_f32(index as f32).to_f32());
    for name in ["product", "product_of_a_warpgroup"] {
        let product = floats(&triton_result(name)[2]);
        for (place, found) in product.iter().enumerate() {
            let (row, column) = (place / 64, place % 64);
            let exact: f64 = (0..128).map(|k| element(row * 128 + k) * element(k * 64 + column)).sum();
            assert!((f64::from(*found) - exact).abs() <= 1e-5 * exact, "{name} {row},{column}: {found} {exact}");
        }
    }
}

/// Launches Triton's product of tensors by tensor copies; the findings, and the largest error.
fn product_of_tensors(ptx: &str, seed: u64) -> (Vec<ptx_interp::Finding>, f32) {
    const SIDE: usize = 64;
    const DEPTH: usize = 320;
    let kernel = Module::parse(ptx).expect("parses").kernel("product_of_tensors").expect("decodes");
    let mut memory = Memory::new();
    let mut launch = Launch::new([1, 1, 1], [128, 1, 1]);
    (launch.seed, launch.dynamic_shared) = (seed, 65_536);
    launch.params = vec![0; kernel.parameter_bytes()];
    let value = |index: usize| half::f16::from_f32(((index * 37) % 11) as f32 - 5.0);
    let mut tensors = Vec::new();
    // Triton passes the map, the sides and the strides of each tensor: five parameters.
    for (index, [rows, columns]) in [[SIDE, DEPTH], [DEPTH, SIDE], [SIDE, SIDE]].into_iter().enumerate() {
        let address = memory.allocate("tensor", rows * columns * 2, 256);
        let bytes: Vec<u8> = (0..rows * columns).flat_map(|index| value(index).to_le_bytes()).collect();
        memory.write(address, &bytes).expect("just allocated");
        let map = TensorMapDescription {
            address,
            element: ElementType::F16,
            dims: vec![columns as u64, rows as u64],
            strides: vec![columns as u64 * 2],
            box_dims: vec![64, 64],
            element_strides: vec![1, 1],
            swizzle: Swizzle::Bytes128,
            fill: OutOfBoundsFill::Zeros,
        };
        let parameter = &kernel.parameters()[5 * index];
        let encoded = map.encode().expect("a valid map");
        launch.params[parameter.offset..parameter.offset + encoded.len()].copy_from_slice(&encoded);
        tensors.push(address);
    }
    let depth = &kernel.parameters()[15];
    launch.params[depth.offset..depth.offset + 4].copy_from_slice(&(DEPTH as u32).to_le_bytes());
    let report = launch.run(&kernel, &mut memory).expect("is accepted");
    let out = memory.read_vec(tensors[2], SIDE * SIDE * 2).expect("is there");
    let error = out.chunks_exact(2).enumerate().map(|(place, bytes)| {
        let (row, column) = (place / SIDE, place % SIDE);
        let exact: f32 = (0..DEPTH).map(|k| value(row * DEPTH + k).to_f32() * value(k * SIDE + column).to_f32()).sum();
        (half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32() - exact).abs() / exact.abs().max(1.0)
    });
    (report.findings, error.fold(0.0, f32::max))
}

#[test]
fn tensor_copies_of_triton_are_judged_right() {
    let ptx = triton_ptx("product_of_tensors");
    for seed in 0..6 {
        let (findings, error) = product_of_tensors(ptx, seed);
        assert!(findings.is_empty(), "seed {seed}: {}", findings[0]);
        assert!(error < 1e-3, "seed {seed}: {error}");
    }
    // Each of these orders something, and is missed whatever the schedule is.
    for gone in ["fence.proxy.async.shared::cta;", "wgmma.wait_group.sync.aligned 0;", "wgmma.fence.sync.aligned;"] {
        assert!(ptx.contains(gone), "{gone}");
        for seed in 0..6 {
            let (findings, _) = product_of_tensors(&ptx.replace(gone, ""), seed);
            assert!(!findings.is_empty(), "without {gone}, seed {seed}");
        }
    }
}
