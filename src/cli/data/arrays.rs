//! `rigl-xla data inspect` of named arrays.

use std::path::Path;

use serde_json::json;

use crate::cli::error::Result;
use crate::data::arrays::{self, Found, Part};
use crate::report::table::{Style, Table};

/// Whether a path is a file of arrays, or a folder with nothing but arrays.
pub fn are_in(path: &Path) -> bool {
    let folder = || path.is_dir() && crate::data::inspect::sets(path).is_err() && arrays::found(path).is_ok();
    arrays::has_arrays(path) || folder()
}

/// Lists the arrays of a file or folder.
///
/// # Errors
/// Files that cannot be read.
pub fn inspect(path: &Path, as_json: bool) -> Result<()> {
    let found = arrays::found(path).map_err(crate::data::Error::from)?;
    let part = |array: &Found| array.part.map_or("", Part::name);
    if as_json {
        let arrays = found.iter().map(|array| {
            json!({
                "part": part(array),
                "name": array.name,
                "dtype": array.stored.name(),
                "shape": array.dims,
                "file": array.path.display().to_string(),
            })
        });
        let arrays: Vec<_> = arrays.collect();
        return crate::cli::print_json(&json!({ "path": path.display().to_string(), "arrays": arrays }));
    }
    let mut table = Table::new(&["part", "array", "type", "shape"]);
    for array in &found {
        table.row([
            part(array).to_owned(),
            crate::report::escape::name(&array.name).into_owned(),
            array.stored.name().to_owned(),
            format!("{:?}", array.dims),
        ]);
    }
    crate::cli::print(&table.write(Style::Text))
}
