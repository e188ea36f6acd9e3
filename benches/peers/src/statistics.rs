//! Medians, quantiles, and the longest silence.

/// The value below which the share `quantile` of all values is, by nearest
/// rank: a value that was measured, and none in between.
pub fn quantile<T: Copy + Ord>(sorted: &[T], quantile: f64) -> Option<T> {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The value in the middle, or between the two that are.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

pub fn highest(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    values.into_iter().max_by(f64::total_cmp)
}

/// The longest time between two events, of which a part is between `from` and
/// `to`. Where there was none before or after, it counts from there or until
/// there.
pub fn longest_gap(events: impl IntoIterator<Item = u64>, from: u64, to: u64) -> u64 {
    let mut before = from;
    let mut after = to;
    let mut inside = Vec::new();
    for event in events {
        match event {
            _ if event < from => {
                before = if before == from {
                    event
                } else {
                    before.max(event)
                }
            }
            _ if event > to => after = if after == to { event } else { after.min(event) },
            _ => inside.push(event),
        }
    }
    inside.sort_unstable();
    inside.insert(0, before);
    inside.push(after);
    inside
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<u32> = (1..=1000).collect();
        assert_eq!(quantile(&values, 0.5), Some(500));
        assert_eq!(quantile(&values, 0.999), Some(999));
        assert_eq!(quantile(&values, 1.0), Some(1000));
        assert_eq!(quantile(&values, 0.0), Some(1));
        assert_eq!(quantile(&[7], 0.999), Some(7));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_gap_is_found_inside() {
        assert_eq!(longest_gap([10, 20, 50, 55, 60], 10, 60), 30);
        assert_eq!(longest_gap([60, 20, 55, 10, 50], 10, 60), 30);
    }

    #[test]
    fn a_gap_reaches_over_the_edges() {
        // The silence had begun before, or ended after.
        assert_eq!(longest_gap([0, 90, 95], 50, 100), 90);
        assert_eq!(longest_gap([50, 60, 150], 50, 100), 90);
        assert_eq!(longest_gap([0, 150], 50, 100), 150);
        // Only the events next to the edges count.
        assert_eq!(longest_gap([0, 5, 45, 55, 105, 300], 50, 100), 50);
    }

    #[test]
    fn where_nothing_happens_all_is_silence() {
        assert_eq!(longest_gap([], 50, 100), 50);
        assert_eq!(longest_gap([10], 50, 100), 90);
    }
}
