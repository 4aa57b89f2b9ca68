//! A flame graph: a rectangle for each frame, as wide as its share of the samples, callers below
//! what they called.
//!
//! Plain SVG that needs no scripts: the full name and the figures are the rectangle's `<title>`,
//! which browsers show as a tooltip and text tools can search.

use flotilla_benches::perf::stacks::Frame;
use std::fmt::Write;

const WIDTH: f64 = 1_600.0;
const ROW: f64 = 17.0;
const MARGIN: f64 = 10.0;
/// A character of the labels.
const LETTER: f64 = 6.7;
/// Frames narrower than this are left out, with all that they called.
const NARROWEST: f64 = 0.4;

struct Rectangle<'a> {
    name: &'a str,
    frame: &'a Frame,
    depth: usize,
    x: f64,
    width: f64,
}

/// The flame graph of `root` as SVG.
pub fn draw(root: &Frame, title: &str) -> String {
    let mut all = Vec::new();
    place(Rectangle { name: "all", frame: root, depth: 0, x: MARGIN, width: WIDTH }, &mut all);
    let rows = all.iter().map(|r| r.depth + 1).max().unwrap_or_default();
    let (width, height) = (WIDTH + 2.0 * MARGIN, (rows + 2) as f64 * ROW + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fffdf8\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.1}\" font-size=\"15\">{}</text>\n",
        MARGIN + ROW,
        escape(title)
    );
    for rectangle in &all {
        let y = height - MARGIN - (rectangle.depth + 1) as f64 * ROW;
        rectangle.draw(y, root.total_ns, &mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lays a frame out, and what it called side by side above it.
fn place<'a>(rectangle: Rectangle<'a>, all: &mut Vec<Rectangle<'a>>) {
    let Rectangle { frame, depth, mut x, width, .. } = rectangle;
    all.push(rectangle);
    for (name, callee) in &frame.callees {
        let width = width * callee.total_ns as f64 / frame.total_ns.max(1) as f64;
        if width >= NARROWEST {
            place(Rectangle { name, frame: callee, depth: depth + 1, x, width }, all);
        }
        x += width;
    }
}

impl Rectangle<'_> {
    fn draw(&self, y: f64, all_ns: u64, svg: &mut String) {
        let Rectangle { name, frame, x, width, .. } = self;
        let share = |ns: u64| ns as f64 * 100.0 / all_ns.max(1) as f64;
        let _ = write!(
            svg,
            "<g><title>{} ({:.1} ms, {:.2} %; itself {:.2} %)</title>\
             <rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{:.1}\" fill=\"{}\" rx=\"1\"/>",
            escape(name),
            frame.total_ns as f64 / 1e6,
            share(frame.total_ns),
            share(frame.own_ns),
            ROW - 1.0,
            colour(name)
        );
        let label = label(name, (width / LETTER) as usize);
        if !label.is_empty() {
            let (x, y) = (x + 2.0, y + ROW - 5.0);
            let _ = write!(svg, "<text x=\"{x:.2}\" y=\"{y:.1}\">{}</text>", escape(&label));
        }
        svg.push_str("</g>\n");
    }
}

/// A name in so many letters; nothing when too few are left to tell it.
fn label(name: &str, letters: usize) -> String {
    if name.chars().count() < letters {
        return name.to_owned();
    }
    let shown: String = name.chars().take(letters.saturating_sub(2)).collect();
    if shown.chars().count() < 3 { String::new() } else { shown + "…" }
}

/// A warm colour, the same for a name wherever it stands.
fn colour(name: &str) -> String {
    let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    format!("hsl({},{}%,{}%)", 8 + hash % 45, 75 + (hash >> 8) % 20, 62 + (hash >> 16) % 12)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(own_ns: u64, callees: Vec<(&str, Frame)>) -> Frame {
        let total_ns = own_ns + callees.iter().map(|(_, f)| f.total_ns).sum::<u64>();
        let callees = callees.into_iter().map(|(name, f)| (name.to_owned(), f)).collect();
        Frame { total_ns, own_ns, callees }
    }

    #[test]
    fn rectangles_are_as_wide_as_their_share_and_stand_on_their_caller() {
        let root =
            frame(0, vec![("a", frame(1, vec![("b", frame(2, vec![]))])), ("c", frame(1, vec![]))]);
        let mut all = Vec::new();
        place(Rectangle { name: "all", frame: &root, depth: 0, x: 0.0, width: 100.0 }, &mut all);
        let placed: Vec<_> = all.iter().map(|r| (r.name, r.depth, r.x, r.width)).collect();
        let expected = [
            ("all", 0, 0.0, 100.0),
            ("a", 1, 0.0, 75.0),
            ("b", 2, 0.0, 50.0),
            ("c", 1, 75.0, 25.0),
        ];
        assert_eq!(placed, expected);
        let svg = draw(&root, "t");
        let y = |name: &str| {
            let line = svg.lines().find(|l| l.contains(&format!("<title>{name} ("))).unwrap();
            line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(y("all") > y("a") && y("a") > y("b") && y("a") == y("c"));
    }

    #[test]
    fn too_narrow_frames_are_left_out_without_moving_the_others() {
        let root = frame(0, vec![("a", frame(1, vec![])), ("b", frame(99_999, vec![]))]);
        let mut all = Vec::new();
        place(Rectangle { name: "all", frame: &root, depth: 0, x: 0.0, width: 100.0 }, &mut all);
        assert_eq!(all.iter().map(|r| r.name).collect::<Vec<_>>(), ["all", "b"]);
        assert!(all[1].x > 0.0);
    }

    #[test]
    fn names_are_escaped_and_cut_to_fit() {
        let svg = draw(&frame(0, vec![("<A & \"B\">::f", frame(3_000_000, vec![]))]), "x < y");
        assert!(svg.contains(">x &lt; y</text>"));
        let title =
            "<title>&lt;A &amp; &quot;B&quot;&gt;::f (3.0 ms, 100.00 %; itself 100.00 %)</title>";
        assert!(svg.contains(title), "{svg}");
        assert_eq!(label("function", 20), "function");
        assert_eq!(label("function", 7), "funct…");
        assert_eq!(label("function", 4), "");
        assert_eq!(label("é", 0), "");
    }
}
