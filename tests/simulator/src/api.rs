//! The AWS API.

use crate::http::{Answer, Asked};
use crate::state::Shared;

pub(crate) fn answer(_shared: &Shared, _asked: Asked) -> Answer {
    Answer::new(501, "text/plain", "")
}
