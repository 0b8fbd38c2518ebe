"""Methods of budgeted training: samplers that learn, and selectors of batches."""
