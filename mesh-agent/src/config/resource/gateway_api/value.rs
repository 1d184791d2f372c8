//! Values that the API validates: header names and values, statuses, percentages.

use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::borrow::Cow;

pub(super) fn header_name<'de, D: Deserializer<'de>>(d: D) -> Result<HeaderName, D::Error> {
    let text = Cow::<str>::deserialize(d)?;
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| D::Error::custom(format!("{text:?} is no header name")))
}

pub(super) fn header_names<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<HeaderName>, D::Error> {
    #[derive(Deserialize)]
    struct Name(#[serde(deserialize_with = "header_name")] HeaderName);
    Ok(Vec::<Name>::deserialize(d)?.into_iter().map(|name| name.0).collect())
}

pub(super) fn header_value<'de, D: Deserializer<'de>>(d: D) -> Result<HeaderValue, D::Error> {
    let text = Cow::<str>::deserialize(d)?;
    HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| D::Error::custom(format!("{text:?} holds characters that a header value must not have")))
}

/// Of a redirect (`statusCode`).
pub(super) fn redirect_status<'de, D: Deserializer<'de>>(d: D) -> Result<StatusCode, D::Error> {
    let number = u16::deserialize(d)?;
    match number {
        301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(number).map_err(D::Error::custom),
        _ => Err(D::Error::custom(format!("{number} is no redirect: 301, 302, 303, 307 or 308"))),
    }
}

/// Of a retry (`codes[]`).
pub(super) fn statuses<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u16>, D::Error> {
    let numbers = Vec::<u16>::deserialize(d)?;
    match numbers.iter().find(|number| !(400..600).contains(*number)) {
        Some(number) => Err(D::Error::custom(format!("{number} is no status from 400 to 599"))),
        None => Ok(numbers),
    }
}

pub(super) fn percent<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(d)? {
        Some(number) if number > 100 => Err(D::Error::custom(format!("{number} is more than 100 percent"))),
        percent => Ok(percent),
    }
}
