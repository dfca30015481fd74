//! The control group: one deliberate panic of each kind, which the search must find, each in the function that has it.
//! A search that passed over one of these would prove nothing of the rooms.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "these are here to be found"
)]

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

/// Calls them all; the first one ends the program.
pub(crate) fn run() {
    let text: String = std::env::args().collect();
    let data = text.as_bytes();
    black_box(an_index(data));
    black_box(a_slice(data));
    black_box(a_piece_of_text(&text));
    black_box(an_unwrap(&text));
    black_box(an_expectation(&text));
    black_box(a_division(data));
    black_box(a_sum_of_durations(data));
    black_box(an_index_in_a_closure(data));
    black_box(an_inlined_caller(data));
    black_box(a_copy(data));
    black_box(a_removal(data.to_vec()));
    a_borrow(&RefCell::new(data.len()));
    black_box(a_search(&text, &text));
    black_box(a_format(&text));
    if data.len() > 1 {
        a_panic(&text);
    }
}

#[inline(never)]
fn an_index(data: &[u8]) -> u8 {
    data[0]
}

#[inline(never)]
fn a_slice(data: &[u8]) -> &[u8] {
    &data[3..]
}

#[inline(never)]
fn a_piece_of_text(text: &str) -> &str {
    &text[1..]
}

#[inline(never)]
fn an_unwrap(text: &str) -> char {
    text.chars().next().unwrap()
}

#[inline(never)]
fn an_expectation(text: &str) -> u8 {
    text.parse().expect("a number")
}

#[inline(never)]
fn a_division(data: &[u8]) -> usize {
    1000 / data.len()
}

#[inline(never)]
fn a_sum_of_durations(data: &[u8]) -> Duration {
    data.iter()
        .map(|byte| Duration::from_secs(u64::from(*byte) << 56))
        .fold(Duration::ZERO, |sum, next| sum + next)
}

/// The frame of a closure inside the standard library's own.
#[inline(never)]
fn an_index_in_a_closure(data: &[u8]) -> Vec<u8> {
    data.iter().map(|byte| data[usize::from(*byte)]).collect()
}

#[inline(never)]
fn an_inlined_caller(data: &[u8]) -> u8 {
    an_inlined_index(data).saturating_add(1)
}

#[inline(always)]
fn an_inlined_index(data: &[u8]) -> u8 {
    data[7]
}

#[inline(never)]
fn a_copy(data: &[u8]) -> [u8; 4] {
    let mut copy = [0; 4];
    copy.copy_from_slice(data);
    copy
}

#[inline(never)]
fn a_removal(mut data: Vec<u8>) -> u8 {
    data.remove(2)
}

#[inline(never)]
fn a_borrow(cell: &RefCell<usize>) {
    let held = cell.borrow();
    *black_box(cell).borrow_mut() = *held;
}

/// The standard library's own panic, in a function of its own: nothing here has one.
#[inline(never)]
fn a_search<'a>(text: &'a str, needle: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(needle)
}

/// Likewise: it panics where a `Display` gives an error.
#[inline(never)]
fn a_format(text: &str) -> String {
    format!("{text:>9} {text:?}")
}

#[inline(never)]
fn a_panic(text: &str) {
    panic!("{text}");
}
