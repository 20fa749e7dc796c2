//! A folder for a test, and the program run in it.

use std::path::PathBuf;
use std::process::Command;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A folder of a test's own, and the program run in it.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `sdpa` on the interpreter and shows everything that a user would see, without the machine's own paths.
    pub(crate) fn sdpa(&self, arguments: &[&str]) -> String {
        self.sdpa_on("interpreter", arguments)
    }

    pub(crate) fn sdpa_on(&self, device: &str, arguments: &[&str]) -> String {
        self.said_by(self.command(arguments).env("SDPA_DEVICE", device))
    }

    /// The program with these arguments, to be run in the folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sdpa"));
        command.args(arguments).current_dir(self.folder.path()).env("SDPA_DEVICE", "interpreter");
        command
    }

    /// Runs a command and shows all that it says, and how it ends. The note that the folder is in no checkout is left out: it is
    /// true of every test, and names the machine's own path.
    pub(crate) fn said_by(&self, command: &mut Command) -> String {
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).replace(&self.folder.path().display().to_string(), "[folder]")
        };
        let code = output.status.code().map_or("killed".to_owned(), |code| code.to_string());
        let errors = text(&output.stderr);
        let errors =
            errors.split_inclusive('\n').filter(|line| !line.starts_with("note: this folder is in no checkout"));
        format!("{}{}exit {code}", text(&output.stdout), errors.collect::<String>())
    }

    /// What the program says of a file with these tensors.
    pub(crate) fn run_on(&self, tensors: &[Tensor]) -> String {
        self.write("in.safetensors", tensors);
        let said = self.sdpa(&["run", "in.safetensors", "-o", "out.safetensors"]);
        assert!(!self.path("out.safetensors").exists(), "an output was written all the same: {said}");
        said
    }

    pub(crate) fn write(&self, name: &str, tensors: &[Tensor]) {
        let views = tensors.iter().map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("bytes fit the shape");
            (tensor.name, view)
        });
        std::fs::write(self.path(name), safetensors::serialize(views, None).expect("serialises")).expect("writes");
    }
}

pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A tensor of small numbers that differ.
pub(crate) fn tensor(name: &'static str, dtype: Dtype, shape: &[usize]) -> Tensor {
    let value =
        |index: usize| ((index * 37 + name.len() * 11 + usize::from(name.as_bytes()[0])) % 101) as f32 / 50.0 - 1.0;
    let count: usize = shape.iter().product();
    let bytes = (0..count)
        .flat_map(|index| match dtype {
            Dtype::F16 => f16::from_f32(value(index)).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(value(index)).to_le_bytes().to_vec(),
            Dtype::F32 => value(index).to_le_bytes().to_vec(),
            other => panic!("no test needs {other:?}"),
        })
        .collect();
    Tensor { name, dtype, shape: shape.to_vec(), bytes }
}

pub(crate) fn qkv(dtype: Dtype, query: &[usize], key: &[usize], value: &[usize]) -> [Tensor; 3] {
    [tensor("q", dtype, query), tensor("k", dtype, key), tensor("v", dtype, value)]
}
