//! Requests that fail in a restart: a row for each peer, a column for each
//! load, all bars on the same scale.

use super::STYLE;
use crate::report::LoadFigures;
use crate::svg::{Path, Svg};

/// Where the cells are, in pixels.
const LEFT: i32 = 92;
const TOP: i32 = 64;
const ROW: i32 = 26;
const COLUMN: i32 = 178;
/// The longest bar; behind it there is room for its number.
const LONGEST: i32 = 120;
const THICK: i32 = 12;

/// The picture; `None` if there is nothing to draw.
pub fn draw(figures: &[LoadFigures]) -> Option<String> {
    let peers = distinct(figures.iter().map(|it| it.peer.as_str()));
    let loads = distinct(figures.iter().map(|it| it.load.as_str()));
    let restarts = figures.first()?.restarts;
    let most = figures.iter().map(failed_each).max_by(f64::total_cmp)?;
    let width = LEFT + i32::try_from(loads.len()).ok()? * COLUMN + 10;
    let height = TOP + i32::try_from(peers.len()).ok()? * ROW + 6;
    let title = "Requests that fail in one restart";
    let mut svg = Svg::new(width, height, title, STYLE);
    svg.text(LEFT, 18, "start", "name", title);
    let how = format!("mean of {restarts} restarts under each load; clients do not try again");
    svg.text(LEFT, 34, "start", "small", &how);
    let mut x = LEFT;
    for load in &loads {
        svg.text(x, TOP - 8, "start", "small", load);
        x += COLUMN;
    }
    let mut y = TOP;
    for peer in &peers {
        svg.text(LEFT - 8, y + 14, "end", "name", peer);
        let mut x = LEFT;
        for load in &loads {
            let mut all = figures.iter();
            if let Some(it) = all.find(|it| it.peer == *peer && it.load == *load) {
                cell(&mut svg, x, y, failed_each(it), most);
            }
            x += COLUMN;
        }
        y += ROW;
    }
    Some(svg.end())
}

fn cell(svg: &mut Svg, x: i32, y: i32, failed: f64, most: f64) {
    let mut axis = Path::default();
    axis.move_to(x, y);
    axis.upright(y + ROW - 6);
    svg.path("grid", &axis);
    if failed <= 0.0 {
        svg.text(x + 6, y + 14, "start", "small", "none");
        return;
    }
    // What is not nothing is to be seen.
    let length = ((failed / most * f64::from(LONGEST)).round() as i32).max(2);
    let mut bar = Path::default();
    bar.move_to(x, y + 4);
    bar.across(x + length);
    bar.upright(y + 4 + THICK);
    bar.across(x);
    bar.close();
    svg.path("bar", &bar);
    let text = match failed {
        few if few < 10.0 => format!("{failed:.1}"),
        _ => format!("{failed:.0}"),
    };
    svg.text(x + length + 5, y + 14, "start", "bad", &text);
}

fn failed_each(figures: &LoadFigures) -> f64 {
    figures.failed as f64 / figures.restarts.max(1) as f64
}

/// Each once, in the order in which they come.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Spread;

    fn figures(peer: &str, load: &str, failed: usize) -> LoadFigures {
        LoadFigures {
            peer: peer.to_owned(),
            way: "",
            load: load.to_owned(),
            restarts: 20,
            answered: 1,
            failed,
            failed_while_steady: 0,
            failures: Default::default(),
            connections: 0,
            closed_announced: 0,
            closed_idle: 0,
            reset_idle: 0,
            until_answered_ms: Spread::of([]),
            until_ended_ms: Spread::of([]),
            not_answered: 0,
            not_ended: 0,
            steady_silence_ms: 0.0,
            silence_ms: Spread::of([]),
            notes: Vec::new(),
        }
    }

    #[test]
    fn nothing_makes_no_picture() {
        assert_eq!(draw(&[]), None);
    }

    #[test]
    fn none_is_said_and_one_is_seen() {
        let text = draw(&[
            figures("ours", "post", 0),
            figures("theirs", "post", 1),
            figures("others", "post", 100_000),
        ]);
        let text = text.unwrap();
        assert_eq!(text.matches(">none</text>").count(), 1);
        assert_eq!(text.matches("class=\"bar\"").count(), 2);
        // One in twenty restarts, next to five thousand in each.
        assert!(text.contains("h2v12h-2z") && text.contains("h120v12h-120z"));
        assert!(text.contains(">0.1</text>") && text.contains(">5000</text>"));
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let text = draw(&[figures("one", "post", 0), figures("two", "keep-alive", 0)]);
        assert_eq!(text.unwrap().matches(">none</text>").count(), 2);
    }

    #[test]
    fn nothing_failed_anywhere() {
        let text = draw(&[figures("one", "post", 0)]).unwrap();
        assert!(!text.contains("NaN") && !text.contains("class=\"bar\""));
    }
}
