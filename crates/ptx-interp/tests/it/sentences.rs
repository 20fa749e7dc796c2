//! Errors read as sentences, also where a `main` that returns one prints it by `{:?}`.

use ptx_interp::{Launch, Memory, Module};

const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.entry nothing(.param .u64 out) {\n ret;\n}\n";

#[test]
fn debug_is_the_sentence() {
    let parse = Module::parse(".version 8.0\n.target sm_80\nnonsense {").map(drop).unwrap_err();
    let module = Module::parse(PTX).unwrap();
    let kernel = module.kernel("something").map(drop).unwrap_err();
    let launch = Launch::new([1, 1, 1], [32, 1, 1]).run(&module.kernel("nothing").unwrap(), &mut Memory::new());
    let memory = Memory::new().read_vec(0x100, 4).unwrap_err();
    let errors: [&dyn std::error::Error; 4] = [&parse, &kernel, &launch.map(drop).unwrap_err(), &memory];
    for error in errors {
        assert_eq!(format!("{error:?}"), error.to_string());
        assert!(error.to_string().contains(' '), "{error}");
    }
    assert_eq!(format!("{kernel:?}"), "no kernel `something` in the module; it has nothing");
}
