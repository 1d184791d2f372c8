//! The connect hook's cost does not grow with the number of services.

use mesh_test::bench::connect_hook;

#[test]
fn flat_from_10_to_10_000_services() {
    let rows = connect_hook::run().unwrap();
    println!("{}", connect_hook::table(&rows));
    for row in &rows {
        // A look-up that grew with the services would be hundreds of times slower; caches and a busy machine cost some.
        assert!(row.same.ratio < 1.5 && row.all.ratio < 2.0, "{rows:?}");
    }
}
