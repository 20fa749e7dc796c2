//! One-hot probes: where each element of a fragment lives, against the tables of the PTX manual written out anew.

use ptx_interp::{Launch, Memory, Module};

/// Runs `body` in one warp: eight words a lane in, eight words a lane out.
fn warp(body: &str, input: &[u32], shared: &[u8]) -> Vec<u32> {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.entry k(.param .u64 in, .param .u64 image, .param .u64 out)\n{{\n.reg .b32 %r<40>;\n\
         .reg .f32 %f<16>;\n.reg .b64 %rd<8>;\n.reg .pred %p<3>;\n.shared .align 128 .b8 cells[2048];\nld.param.u64 %rd1, [in];\nld.param.u64 %rd2, [image];\n\
         ld.param.u64 %rd3, [out];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd4, %r1, 32;\nadd.s64 %rd1, %rd1, %rd4;\nadd.s64 %rd3, %rd3, %rd4;\n\
         mul.wide.u32 %rd4, %r1, 64;\nadd.s64 %rd2, %rd2, %rd4;\nmov.u32 %r2, cells;\nshl.b32 %r3, %r1, 6;\nadd.s32 %r4, %r2, %r3;\n\
         ld.global.v4.u32 {{%r10,%r11,%r12,%r13}}, [%rd1];\nld.global.v4.u32 {{%r14,%r15,%r16,%r17}}, [%rd1+16];\n\
         ld.global.v4.u32 {{%r20,%r21,%r22,%r23}}, [%rd2];\nst.shared.v4.u32 [%r4], {{%r20,%r21,%r22,%r23}};\n\
         ld.global.v4.u32 {{%r20,%r21,%r22,%r23}}, [%rd2+16];\nst.shared.v4.u32 [%r4+16], {{%r20,%r21,%r22,%r23}};\n\
         ld.global.v4.u32 {{%r20,%r21,%r22,%r23}}, [%rd2+32];\nst.shared.v4.u32 [%r4+32], {{%r20,%r21,%r22,%r23}};\n\
         ld.global.v4.u32 {{%r20,%r21,%r22,%r23}}, [%rd2+48];\nst.shared.v4.u32 [%r4+48], {{%r20,%r21,%r22,%r23}};\nbar.sync 0;\n\
         mov.u32 %r30, 0;\nmov.u32 %r31, 0;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\n{body}\n\
         st.global.v4.u32 [%rd3], {{%r30,%r31,%r32,%r33}};\nst.global.v4.u32 [%rd3+16], {{%r30,%r31,%r32,%r33}};\nret;\n}}\n"
    );
    let kernel = Module::parse(&text).expect("parses").kernel("k").unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut params = Vec::new();
    for (name, data) in [("in", bytes.as_slice()), ("image", shared)] {
        let address = memory.allocate(name, data.len(), 256);
        memory.write(address, data).expect("just allocated");
        params.extend(address.to_le_bytes());
    }
    let out = memory.allocate("out", 32 * 32, 256);
    params.extend(out.to_le_bytes());
    let mut launch = Launch::new([1, 1, 1], [32, 1, 1]);
    launch.params = params;
    let report = launch.run(&kernel, &mut memory).expect("is accepted");
    assert!(report.is_clean(), "{:#?}", report.findings);
    let bytes = memory.read_vec(out, 32 * 32).expect("output is there");
    bytes.chunks_exact(4).map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

const ONE: u32 = 0x3c00;

/// Lane, register and half of row r, column c of A in m16n8k16: groups of four lanes hold a row.
fn place_a(row: usize, column: usize) -> (usize, usize, usize) {
    (row % 8 * 4 + column % 8 / 2, row / 8 + column / 8 * 2, column % 2)
}

fn place_b(row: usize, column: usize) -> (usize, usize, usize) {
    (column * 4 + row % 8 / 2, row / 8, row % 2)
}

#[test]
fn mma_m16n8k16_places_every_element() {
    let body = "mov.b32 %f1, 0f00000000;\nmma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f2,%f3,%f4,%f5}, {%r10,%r11,%r12,%r13}, {%r14,%r15}, \
                {%f1,%f1,%f1,%f1};\nmov.b32 %r30, %f2;\nmov.b32 %r31, %f3;\nmov.b32 %r32, %f4;\nmov.b32 %r33, %f5;";
    for (row, depth, column) in (0..16).flat_map(|row| (0..16).map(move |depth| (row, depth, (row * 3 + depth) % 8))) {
        let mut input = [0; 256];
        let (lane, register, half) = place_a(row, depth);
        input[lane * 8 + register] |= ONE << (16 * half);
        let (lane, register, half) = place_b(depth, column);
        input[lane * 8 + 4 + register] |= ONE << (16 * half);
        let output = warp(body, &input, &[0; 2048]);
        for lane in 0..32 {
            for register in 0..4 {
                let here = (lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
                let expected = if here == (row, column) { 1f32.to_bits() } else { 0 };
                assert_eq!(output[lane * 8 + register], expected, "A({row},{depth})·B({depth},{column}) at {here:?}");
            }
        }
    }
}

#[test]
fn mma_m16n8k8_and_f16_accumulators() {
    let body = "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r30,%r31}, {%r10,%r11}, {%r14}, {%r16,%r17};";
    let mut input = [0; 256];
    // A(9, 3) = 1, B(3, 5) = 1 and C(9, 5) = 2: D(9, 5) = 3.
    let (lane, _, half) = place_a(9, 3);
    input[lane * 8 + 1] = ONE << (16 * half);
    let (lane, _, half) = place_b(3, 5);
    input[lane * 8 + 4] = ONE << (16 * half);
    input[(4 + 2) * 8 + 7] = 0x4000 << 16;
    let output = warp(body, &input, &[0; 2048]);
    assert_eq!(output[(4 + 2) * 8 + 1], 0x4200 << 16);
    assert_eq!(output.iter().filter(|word| **word != 0).count(), 2, "one word, stored twice");
}

/// 16-bit element i of shared memory holds i.
fn counting() -> Vec<u8> {
    (0..1024u16).flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn ldmatrix_deals_rows_to_lanes() {
    // Lane l names the row at 32·l bytes: row r of matrix m begins at element 16·(8m + r).
    let address = "shl.b32 %r5, %r1, 5;\nadd.s32 %r5, %r2, %r5;\n";
    let plain = warp(
        &format!("{address}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r30,%r31,%r32,%r33}}, [%r5];"),
        &[0; 256],
        &counting(),
    );
    let transposed = warp(
        &format!("{address}ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r30,%r31,%r32,%r33}}, [%r5];"),
        &[0; 256],
        &counting(),
    );
    let element = |matrix: usize, row: usize, column: usize| (16 * (8 * matrix + row) + column) as u32;
    for lane in 0..32 {
        for matrix in 0..4 {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let expected = element(matrix, row, column) | element(matrix, row, column + 1) << 16;
            assert_eq!(plain[lane * 8 + matrix], expected);
            let expected = element(matrix, column, row) | element(matrix, column + 1, row) << 16;
            assert_eq!(transposed[lane * 8 + matrix], expected);
        }
    }
}

#[test]
fn movmatrix_exchanges_rows_and_columns() {
    let element = |row: usize, column: usize| (100 * row + column) as u32;
    let mut input = [0; 256];
    for lane in 0..32 {
        let (row, column) = (lane / 4, lane % 4 * 2);
        input[lane * 8] = element(row, column) | element(row, column + 1) << 16;
    }
    let output = warp("movmatrix.sync.aligned.m8n8.trans.b16 %r30, %r10;", &input, &[0; 2048]);
    for lane in 0..32 {
        let (row, column) = (lane / 4, lane % 4 * 2);
        assert_eq!(output[lane * 8], element(column, row) | element(column + 1, row) << 16, "lane {lane}");
    }
}

#[test]
fn stmatrix_undoes_ldmatrix() {
    for spelling in ["x4", "x4.trans"] {
        let body = format!(
            "shl.b32 %r5, %r1, 5;\nadd.s32 %r5, %r2, %r5;\nldmatrix.sync.aligned.m8n8.{spelling}.shared.b16 {{%r20,%r21,%r22,%r23}}, [%r5];\n\
             bar.sync 0;\nadd.s32 %r6, %r5, 16;\nstmatrix.sync.aligned.m8n8.{spelling}.shared.b16 [%r6], {{%r20,%r21,%r22,%r23}};\nbar.sync 0;\n\
             ld.shared.v4.u32 {{%r30,%r31,%r32,%r33}}, [%r6];"
        );
        let output = warp(&body, &[0; 256], &counting());
        for lane in 0..32 {
            for word in 0..4 {
                let first = (16 * lane + 2 * word) as u32;
                assert_eq!(output[lane * 8 + word], first | (first + 1) << 16, "{spelling}");
            }
        }
    }
}

#[test]
fn wmma_shapes_multiply() {
    for (shape, m, n) in [("m16n16k16", 16, 16), ("m32n8k16", 32, 8), ("m8n32k16", 8, 32)] {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 a, .param .u64 b, .param .u64 c)\n{{\n.reg .b32 %r<40>;\n.reg .f32 %f<20>;\n\
             .reg .b64 %rd<4>;\nld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.param.u64 %rd3, [c];\nmov.f32 %f0, 0f00000000;\n\
             wmma.load.a.sync.aligned.row.{shape}.global.f16 {{%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}}, [%rd1], 16;\n\
             wmma.load.b.sync.aligned.row.{shape}.f16 {{%r8,%r9,%r10,%r11,%r12,%r13,%r14,%r15}}, [%rd2], {n};\n\
             wmma.mma.sync.aligned.row.row.{shape}.f32.f32 {{%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}}, {{%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}}, \
             {{%r8,%r9,%r10,%r11,%r12,%r13,%r14,%r15}}, {{%f0,%f0,%f0,%f0,%f0,%f0,%f0,%f0}};\n\
             wmma.store.d.sync.aligned.row.{shape}.global.f32 [%rd3], {{%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}}, {n};\nret;\n}}\n"
        );
        let kernel = Module::parse(&text).expect("parses").kernel("k").unwrap_or_else(|error| panic!("{error}"));
        let value = |index: usize| (index * 5 % 7) as f32 - 3.0;
        let mut memory = Memory::new();
        let mut upload = |name: &str, count: usize| {
            let data: Vec<u8> = (0..count).flat_map(|index| half::f16::from_f32(value(index)).to_le_bytes()).collect();
            let address = memory.allocate(name, data.len(), 256);
            memory.write(address, &data).expect("just allocated");
            address
        };
        let mut params = Vec::new();
        params.extend(upload("a", m * 16).to_le_bytes());
        params.extend(upload("b", 16 * n).to_le_bytes());
        let out = memory.allocate("c", m * n * 4, 256);
        params.extend(out.to_le_bytes());
        let mut launch = Launch::new([1, 1, 1], [32, 1, 1]);
        launch.params = params;
        let report = launch.run(&kernel, &mut memory).expect("is accepted");
        assert!(report.is_clean(), "{:#?}", report.findings);
        let bytes = memory.read_vec(out, m * n * 4).expect("output is there");
        for (index, chunk) in bytes.chunks_exact(4).enumerate() {
            let (row, column) = (index / n, index % n);
            let expected: f32 = (0..16).map(|k| value(row * 16 + k) * value(k * n + column)).sum();
            assert_eq!(
                f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]),
                expected,
                "{shape} ({row},{column})"
            );
        }
    }
}
