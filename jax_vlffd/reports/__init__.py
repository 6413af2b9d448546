"""All that is shown of a result: charts, pages and the model card."""
