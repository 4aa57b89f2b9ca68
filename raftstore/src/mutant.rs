//! Planted bugs: real mistakes, chosen by name at run time, that the simulator must find.
//!
//! Without the Cargo feature `mutants` [`active`] is a constant `false` and every planted branch
//! compiles away. With it, one thread plants at most one bug for everything that it runs: the
//! simulator runs a whole cluster on one thread, so clusters on other threads stay clean. The list
//! of all of them, with what each gets wrong, is in `tests/src/mutants.rs`.

/// Whether the bug `name` is planted on this thread.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn active(_name: &str) -> bool {
    false
}

#[cfg(feature = "mutants")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether the bug `name` is planted on this thread.
#[cfg(feature = "mutants")]
#[must_use]
pub fn active(name: &str) -> bool {
    PLANTED.get() == Some(name)
}

/// Plants the bug `name` on this thread, or none.
#[cfg(feature = "mutants")]
pub fn plant(name: Option<&'static str>) {
    PLANTED.set(name);
}
