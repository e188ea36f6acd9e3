//! Writes SVG: elements, text, and paths of whole numbers.

use std::fmt::{self, Write as _};

/// A picture that is being drawn. Text is text, the background is whatever is
/// behind, and colours come from classes of the style.
pub struct Svg {
    text: String,
}

impl Svg {
    pub fn new(width: i32, height: i32, title: &str, style: &str) -> Self {
        let mut svg = Svg {
            text: String::new(),
        };
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>{}</title>\n<style>{}</style>\n",
            Escaped(title),
            Escaped(style)
        ));
        svg
    }

    /// A text; `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, x: i32, y: i32, anchor: &str, class: &str, text: &str) {
        self.put(format_args!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>\n",
            Escaped(text)
        ));
    }

    /// What `path` draws; nothing if that is nothing.
    pub fn path(&mut self, class: &str, path: &Path) {
        if !path.text.is_empty() {
            self.put(format_args!(
                "<path class=\"{class}\" d=\"{}\"/>\n",
                path.text
            ));
        }
    }

    pub fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(arguments);
    }
}

/// Lines, each from where the last one ended; moves that go nowhere take no
/// bytes.
#[derive(Default)]
pub struct Path {
    text: String,
    at: (i32, i32),
}

impl Path {
    pub fn move_to(&mut self, x: i32, y: i32) {
        self.put(format_args!("M{x} {y}"));
        self.at = (x, y);
    }

    /// A horizontal line to `x`.
    pub fn across(&mut self, x: i32) {
        if x != self.at.0 {
            self.put(format_args!("h{}", x - self.at.0));
            self.at.0 = x;
        }
    }

    /// A vertical line to `y`.
    pub fn upright(&mut self, y: i32) {
        if y != self.at.1 {
            self.put(format_args!("v{}", y - self.at.1));
            self.at.1 = y;
        }
    }

    /// Back to where the last move went.
    pub fn close(&mut self) {
        self.text.push('z');
    }

    /// A cross around a point, `arm` to each side.
    pub fn cross(&mut self, x: i32, y: i32, arm: i32) {
        let all = 2 * arm;
        self.move_to(x - arm, y - arm);
        // A line needs no letter behind a move.
        self.put(format_args!("l{all} {all}m0-{all}-{all} {all}"));
    }

    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(arguments);
    }
}

/// Text between tags or quotation marks.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10, 10, "a < b", "");
        svg.text(1, 2, "start", "t", "\"R&D\" > 1");
        let text = svg.end();
        assert!(text.contains("<title>a &lt; b</title>"));
        assert!(text.contains(">&quot;R&amp;D&quot; &gt; 1</text>"));
    }

    #[test]
    fn a_path_says_only_what_changes() {
        let mut path = Path::default();
        path.move_to(1, 2);
        path.across(4);
        path.upright(2);
        path.upright(7);
        path.across(4);
        path.across(0);
        path.close();
        assert_eq!(path.text, "M1 2h3v5h-4z");
    }

    #[test]
    fn a_cross_has_two_strokes_of_the_same_length() {
        let mut path = Path::default();
        path.cross(10, 20, 3);
        assert_eq!(path.text, "M7 17l6 6m0-6-6 6");
    }

    #[test]
    fn an_empty_path_is_left_out() {
        let mut svg = Svg::new(10, 10, "", "");
        svg.path("line", &Path::default());
        assert!(!svg.end().contains("<path"));
    }
}
