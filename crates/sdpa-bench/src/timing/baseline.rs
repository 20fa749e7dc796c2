//! Figures of an earlier run, each grid's beside its own.

use std::path::{Path, PathBuf};

use super::{Record, RecordError, Sittings};

/// A file of figures, or a folder of them as `sdpa bench --record` fills it.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// Every file's figures, in the order of the files' names.
    all: Record,
    /// Those of each file of a folder; none where one file was named.
    files: Vec<(PathBuf, Record)>,
}

impl Baseline {
    /// Reads a file, or all those of a folder. JSON without figures is something else's and passed over.
    ///
    /// # Errors
    /// [`RecordError`], also where the files are of several devices.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        if !path.is_dir() {
            return Ok(Self { all: Record::read(path)?, files: Vec::new() });
        }
        let system = |source| RecordError::System { path: path.to_owned(), source };
        let mut names: Vec<PathBuf> = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(system)?;
        names.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        names.sort();
        let mut files: Vec<(PathBuf, Record)> = Vec::new();
        for file in names {
            let text = std::fs::read_to_string(&file).map_err(system)?;
            let format = |source| RecordError::Format { path: file.clone(), source };
            let value = serde_json::from_str(&text).map_err(format)?;
            let Some(sittings) = Sittings::of_value(value) else { continue };
            let record = sittings.map_err(format)?.latest();
            match files.first() {
                Some((_, first)) if first.device != record.device => {
                    let first = first.device.clone();
                    return Err(RecordError::SeveralDevices { path: file, first, other: record.device });
                }
                _ => files.push((file, record)),
            }
        }
        let Some((_, first)) = files.first() else { return Err(RecordError::Empty { path: path.to_owned() }) };
        let figures = files.iter().flat_map(|(_, record)| record.figures.clone()).collect();
        Ok(Self { all: Record { device: first.device.clone(), figures, ..Record::default() }, files })
    }

    /// The device that all figures are of.
    pub fn device(&self) -> &str {
        &self.all.device
    }

    /// What the figures of a record by this file name are compared with: the folder's file of that name, since the same
    /// problem may be in several grids; all figures if there is no such file.
    pub fn beside(&self, file_name: &str) -> &Record {
        let own = self.files.iter().find(|(path, _)| path.file_name().is_some_and(|name| name == file_name));
        own.map_or(&self.all, |(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, Timing};
    use super::*;
    use sdpa_core::Problem;

    fn record(device: &str, us: f64) -> Record {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let figures = vec![Figure::new("v1", &problem, &Timing::new(vec![us]))];
        Record { device: device.to_owned(), figures, ..Record::default() }
    }

    #[test]
    fn each_grid_has_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(matches!(Baseline::read(folder.path()), Err(RecordError::Empty { .. })));
        for (name, us) in [("gpu-acceptance-f16.json", 5.0), ("gpu-short-f16.json", 6.0)] {
            write(name, &serde_json::to_string(&record("some GPU", us)).unwrap());
        }
        write("notes.json", "{}");
        write("gpu-targets-bf16.json.partial", "half");
        let baseline = Baseline::read(folder.path()).unwrap();
        let times =
            |name: &str| baseline.beside(name).figures.iter().map(|figure| figure.median_us).collect::<Vec<_>>();
        assert_eq!(baseline.device(), "some GPU");
        assert_eq!(times("gpu-acceptance-f16.json"), [5.0]);
        assert_eq!(times("gpu-short-f16.json"), [6.0]);
        assert_eq!(times("gpu-shapes-f16.json"), [5.0, 6.0]);
        let one = Baseline::read(&folder.path().join("gpu-short-f16.json")).unwrap();
        assert_eq!(one.beside("gpu-acceptance-f16.json").figures[0].median_us, 6.0);

        write("other.json", &serde_json::to_string(&record("another GPU", 1.0)).unwrap());
        let error = Baseline::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("other.json is of another GPU, a file beside it of some GPU"), "{error}");
    }
}
