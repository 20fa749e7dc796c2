//! Regions of a page that the program writes: between a line `<!-- NAME:begin -->` and a line `<!-- NAME:end -->`.

use super::ReportError;

/// Puts text between the markers of a region; the markers stay, and an empty line stands beside each.
///
/// # Errors
/// [`ReportError::Markers`] if a marker is missing, or there twice, or the two are in the wrong order.
pub fn splice(page: &str, region: &'static str, text: &str) -> Result<String, ReportError> {
    // Only a whole line is a marker, so that prose may name it.
    let line = |marker: String| {
        let mut start = 0;
        let mut found = Vec::new();
        for line in page.split_inclusive('\n') {
            if line.trim_end() == marker {
                found.push(start..start + line.len());
            }
            start += line.len();
        }
        <[_; 1]>::try_from(found).map(|[only]| only).map_err(|_| ReportError::Markers(region))
    };
    let (begin, end) = (line(begin(region))?, line(end(region))?);
    if end.start < begin.end {
        return Err(ReportError::Markers(region));
    }
    Ok(format!("{}\n{}\n\n{}", &page[..begin.end], text.trim_end(), &page[end.start..]))
}

/// The line before a region.
pub fn begin(region: &str) -> String {
    format!("<!-- {region}:begin -->")
}

/// The line after it.
pub fn end(region: &str) -> String {
    format!("<!-- {region}:end -->")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_between_the_markers_and_nowhere_else() {
        let (begin, end) = (begin("results"), end("results"));
        let page = format!("# Title\nnot `{begin}`\n{begin}\nold\n{end}\nafter\n");
        let once = splice(&page, "results", "new\n").unwrap();
        assert_eq!(once, format!("# Title\nnot `{begin}`\n{begin}\n\nnew\n\n{end}\nafter\n"));
        assert_eq!(splice(&once, "results", "new\n").unwrap(), once);
        for wrong in [String::new(), format!("{begin}\n"), format!("{end}\n{begin}\n"), format!("{page}{begin}\n")] {
            assert!(splice(&wrong, "results", "new\n").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_region_is_found_by_its_name() {
        let page = format!("{}\n{}\n{}\n{}\n", begin("a"), end("a"), begin("b"), end("b"));
        let written = splice(&page, "b", "text").unwrap();
        assert_eq!(written, format!("{}\n{}\n{}\n\ntext\n\n{}\n", begin("a"), end("a"), begin("b"), end("b")));
        assert!(splice(&page, "c", "text").unwrap_err().to_string().contains("<!-- c:begin -->"));
    }
}
