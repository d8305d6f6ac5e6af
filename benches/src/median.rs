//! The figure that half of the others do not exceed.

/// The median of some figures, of an even number the upper one of the two in the middle; `None` where there are none.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
