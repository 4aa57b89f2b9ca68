//! Which commit the programs here were built from.

use crate::playground::sibling;

/// Those whose figures a report shows.
const PROGRAMS: [&str; 4] = ["kvserver", "placement", "inside", "throughput"];

/// As `scripts/built-from` noted it beside them after the build; `None` when it did not, or when
/// one of them was built later.
#[must_use]
pub fn commit() -> Option<String> {
    let noted = sibling("commit").ok()?;
    let changed = |path| std::fs::metadata(path).ok()?.modified().ok();
    let at = changed(noted.clone())?;
    let older = |name| sibling(name).ok().and_then(changed).is_some_and(|built| built <= at);
    let text = std::fs::read_to_string(noted).ok()?.trim().to_owned();
    (PROGRAMS.into_iter().all(older) && !text.is_empty()).then_some(text)
}
