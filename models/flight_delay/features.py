"""The features that `flight-delay` reads by key. `history.py` explains when a value is known, and why none expires."""

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
destination = Entity(name="destination", join_keys=["destination"], value_type=ValueType.STRING)
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)


def _view(name: str, entities: list[Entity], *features: str) -> FeatureView:
    """A view of numbers whose source is the folder of its name."""
    return FeatureView(
        name=name,
        entities=entities,
        schema=[Field(name=feature, dtype=Float64) for feature in features],
        source=FileSource(name=name, path=name, timestamp_field="known"),
    )


weather = _view("weather", [airport], "temperature", "wind", "visibility", "rain", "pressure")
airports = _view("airports", [airport], "departures_this_hour", "origin_late_now")
carriers = _view("carriers", [carrier], "carrier_late", "carrier_late_now")
destinations = _view("destinations", [destination], "destination_late_now")
planes = _view("planes", [aircraft], "plane_delay", "plane_age", "plane_seats")

flight = FeatureService(name="flight", features=[weather, airports, carriers, destinations, planes])
