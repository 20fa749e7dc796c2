//! Logits on both sides of the edge from which kernels compute a row a second time, and far beyond.

use harness::needs::as_needed;
use harness::regime::Regime;
use harness::verify::{Reason, Thoroughness, verify_data};
use sdpa::generations;
use sdpa_core::{Dtype, Interpreter, Mask, Operand, Problem};

/// The row maximum, in base-2 logarithms, from which on kernels go another way.
const EDGE: f64 = 16_777_216.0;

/// What the maxima of the rows are, in edges: below it, at it, between tiles of others, and where f16 weights overflowed.
const ROWS: [f64; 12] = [0.5, 0.99, 0.9995, 1.0, 1.0005, 1.01, 2.0, 16.0, 300.0, -1.0, 0.0, 4096.0];

#[test]
fn every_generation_is_right_on_both_sides_of_the_edge() {
    let device = Interpreter::new();
    for generation in generations::ALL {
        let id = generation.generation().id;
        let mut judged = 0;
        for (dtype, mask, sign) in [
            (Dtype::F16, Mask::Full, 1.0),
            (Dtype::Bf16, Mask::Full, -1.0),
            (Dtype::F16, Mask::CausalTopLeft, 1.0),
            (Dtype::F16, Mask::Full, 1e20),
        ] {
            // A score of 1 is an edge, and a little more: by a scale that is no power of two, so that products are rounded.
            let scale = (sign * EDGE * 1.000_123_4 * std::f64::consts::LN_2) as f32;
            let problem = Problem::new(1, 2, ROWS.len(), 64).len_kv(70).dtype(dtype).mask(mask).scale(scale);
            let problem = as_needed(*generation, &problem.build().unwrap());
            let mut data = Regime::Normal.generate(&problem, 7);
            data.extension.key_scale.fill(1.0);
            for operand in [Operand::Query, Operand::Key] {
                let [batches, heads, length, _] = problem.shape(operand);
                for (batch, head) in (0..batches).flat_map(|batch| (0..heads).map(move |head| (batch, head))) {
                    for position in 0..length {
                        let row = data.row_mut(&problem, operand, [batch, head, position]);
                        row.fill(0);
                        // Two keys lead in every row that sees both, and share it; for a negative score all others do.
                        row[0] = problem.element(operand).encode(match operand {
                            Operand::Query => *ROWS.get(position).expect("as many queries as rows"),
                            _ if [3, 50].contains(&position) => sign.signum(),
                            _ => sign.signum() * 0.5,
                        });
                    }
                }
            }
            match verify_data(&device, *generation, &problem, &data, 0, Thoroughness::default()) {
                Ok(measured) => {
                    assert_eq!(measured.judged.unjudged, 0, "{id}: {}", measured.judged);
                    judged += measured.judged.rows;
                }
                Err(Reason::Device(error)) if error.is_unsupported() => {}
                Err(reason) => panic!("{id} on {problem} with scale {scale:e}: {reason}"),
            }
        }
        assert!(judged > 0, "{id} takes none of these problems");
    }
}
