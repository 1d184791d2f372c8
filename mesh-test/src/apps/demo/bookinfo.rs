//! What Bookinfo's services answer: the originals' fields, and stars whose colour tells the version of reviews.

use super::call::Heard;
use super::{Asked, Demo};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Page,
    Asset,
    Login,
    Logout,
    Products,
    /// `/api/v1/products/{id}[/reviews|/ratings]`
    Product,
    Details,
    Reviews,
    Ratings,
}

/// Stars of reviews: none in v1, black in v2, red in v3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    None,
    Black,
    Red,
}

const TITLE: &str = "The Comedy of Errors";
const NO_RATINGS: &str = "Ratings service is currently unavailable";
const NO_REVIEWS: &str = "Sorry, product reviews are currently unavailable for this book.";
const NO_DETAILS: &str = "Error fetching product details!";

impl Colour {
    pub(super) fn of(version: &str) -> Self {
        match version {
            "v1" => Self::None,
            "v2" => Self::Black,
            _ => Self::Red,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Black => "black",
            Self::Red => "red",
        }
    }
}

/// The answer of one part; `heard` is what the calls of its route came to, in their order.
pub(super) fn answer(part: Part, demo: &Demo, asked: &Asked, heard: &[Heard]) -> Response {
    match part {
        Part::Page => Html(page(demo, asked, heard)).into_response(),
        Part::Asset => ([(header::CONTENT_TYPE, "text/css")], "body { font-family: sans-serif }\n").into_response(),
        Part::Login => {
            let cookie = format!("user={}; Path=/; HttpOnly", asked.form("username"));
            back(&cookie)
        }
        Part::Logout => back("user=; Path=/; Max-Age=0"),
        Part::Products => Json(json!([{ "id": 0, "title": TITLE }])).into_response(),
        Part::Product => product(asked, heard),
        Part::Details => Json(details(demo, asked.id)).into_response(),
        Part::Reviews => Json(reviews(demo, asked.id, heard.first())).into_response(),
        Part::Ratings => {
            Json(json!({ "id": asked.id, "ratings": { "Reviewer1": 5, "Reviewer2": 4 }, "podname": &*demo.pod.name }))
                .into_response()
        }
    }
}

/// To the page again, with a cookie.
fn back(cookie: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, "/productpage"), (header::SET_COOKIE, cookie)]).into_response()
}

fn details(demo: &Demo, id: u64) -> Value {
    json!({
        "id": id, "author": "William Shakespeare", "year": 1595, "type": "paperback", "pages": 200,
        "publisher": "PublisherA", "language": "English", "ISBN-10": "1234567890", "ISBN-13": "123-1234567890",
        "podname": &*demo.pod.name,
    })
}

fn reviews(demo: &Demo, id: u64, ratings: Option<&Heard>) -> Value {
    let colour = Colour::of(&demo.version);
    let review = |reviewer: &str, text: &str| {
        let mut review = json!({ "reviewer": reviewer, "text": text });
        match ratings.map(|heard| heard.good().and_then(|answer| answer["ratings"][reviewer].as_u64())) {
            Some(Some(stars)) => review["rating"] = json!({ "stars": stars, "color": colour.as_str() }),
            Some(None) => review["rating"] = json!({ "error": NO_RATINGS }),
            None => {}
        }
        review
    };
    json!({
        "id": id.to_string(), "podname": &*demo.pod.name, "clustername": "null",
        "reviews": [review("Reviewer1", "Two pairs of twins, one long laugh."), review("Reviewer2", "Short, and faster than it reads.")],
    })
}

fn product(asked: &Asked, heard: &[Heard]) -> Response {
    let which = match asked.path.rsplit('/').next() {
        Some("reviews") => 1,
        Some("ratings") => 2,
        _ => 0,
    };
    match heard.get(which) {
        Some(heard) if heard.good().is_some() => Json(heard.answer.clone()).into_response(),
        Some(heard) => {
            let status = StatusCode::from_u16(heard.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Json(json!({ "error": heard.error, "status": heard.status }))).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn page(demo: &Demo, asked: &Asked, heard: &[Heard]) -> String {
    let user = match asked.user.as_str() {
        "" => "<a href=\"/login\">Sign in</a>".to_owned(),
        user => format!("{user} (<a href=\"/logout\">sign out</a>)"),
    };
    let details = match heard.first().and_then(Heard::good) {
        Some(details) => format!("<dl><dt>Author</dt><dd>{}</dd></dl>", escaped(&details["author"])),
        None => format!("<p class=\"error\">{NO_DETAILS}</p>"),
    };
    let reviews = match heard.get(1).and_then(Heard::good) {
        Some(all) => shown_reviews(all),
        None => format!("<p class=\"error\">{NO_REVIEWS}</p>"),
    };
    format!(
        "<!DOCTYPE html>\n<html><head><title>Simple Bookstore App</title>\
         <link rel=\"stylesheet\" href=\"/static/bookinfo.css\"></head>\n<body><p>{user}</p><h1>{TITLE}</h1>\n\
         <h2>Book Details</h2>{details}\n<h2>Book Reviews</h2>{reviews}\n<p>Page served by: {}</p></body></html>\n",
        demo.pod.name
    )
}

fn shown_reviews(all: &Value) -> String {
    let mut html = String::new();
    for review in all["reviews"].as_array().into_iter().flatten() {
        let rating = &review["rating"];
        let shown = match (rating["stars"].as_u64(), rating["error"].as_str()) {
            (Some(stars), _) => {
                let stars = "★".repeat(usize::try_from(stars.min(5)).unwrap_or(5));
                format!("<span class=\"stars\" style=\"color:{}\">{stars}</span>", escaped(&rating["color"]))
            }
            (None, Some(error)) => format!("<em>{}</em>", escape(error)),
            (None, None) => String::new(),
        };
        html += &format!(
            "<blockquote><p>{}</p><small>{}</small> {shown}</blockquote>\n",
            escaped(&review["text"]),
            escaped(&review["reviewer"])
        );
    }
    html + &format!("<p>Reviews served by: {}</p>", escaped(&all["podname"]))
}

fn escaped(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
